/**
 * An answer whose tokens are the whole numbers from 0 on, each followed by a space: whoever has the text can tell which token is
 * missing and which came twice.
 */
export function countedToken(index: number): string {
  return `${index} `
}

export type Flaws = {
  /** Tokens that should be there and are not. */
  lost: number
  /** Tokens beyond the first of each number. */
  doubled: number
  /** Places where another token follows than the next one. */
  gaps: number
}

/** What is wrong with `text` as the answer of `tokens` tokens. */
export function flawsOf(text: string, tokens: number): Flaws {
  const numbers = text.split(' ').filter((word) => word !== '')
  const distinct = new Set(numbers)
  const expected = Array.from({ length: tokens }, (_, index) => String(index))
  return {
    lost: expected.filter((number) => !distinct.has(number)).length,
    doubled: numbers.length - distinct.size,
    gaps: numbers.filter((number, index) => number !== String(Number(numbers[index - 1] ?? -1) + 1)).length,
  }
}

/** The question that is answered with so many tokens, and the number in it. */
export function questionFor(tokens: number): string {
  return `Please say ${tokens} tokens.`
}

export function tokensAskedFor(question: string): number {
  return Number(/(\d+) tokens/.exec(question)?.[1] ?? 0)
}
