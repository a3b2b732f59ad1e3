/** `text` as Postgres can store it: without NUL, and with U+FFFD for surrogates that lack their other half. */
export function storable(text: string): string {
  return text.toWellFormed().replaceAll('\0', '')
}

/** Makes a stream of text storable. A pair of surrogates may come in two pieces: the first waits for the second. */
export class TextRepair {
  #half = ''

  push(piece: string): string {
    const text = this.#half + piece
    this.#half = /[\ud800-\udbff]$/.test(text) ? text.slice(-1) : ''
    return storable(text.slice(0, text.length - this.#half.length))
  }

  /** What is left when nothing more comes. */
  end(): string {
    const rest = storable(this.#half)
    this.#half = ''
    return rest
  }
}
