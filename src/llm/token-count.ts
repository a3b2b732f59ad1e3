import { createRequire } from 'node:module'

type Encoding = typeof import('gpt-tokenizer/encoding/o200k_base')

/**
 * Byte-pair merging is quadratic in the length of a run without a boundary (100,000 equal characters take 4 s), so longer runs
 * are cut into slices of this many characters. Each cut may add a token or two to the count.
 */
const longestRun = 256
const longRuns = new RegExp(`((?<!\\S)\\S{${longestRun + 1},}|(?<!\\s)\\s{${longestRun + 1},})`, 'u')
const slices = new RegExp(`[^]{1,${longestRun}}`, 'gu')

/** Even sliced, a million random characters take 1 to 2 s of the event loop: what is beyond this many is not tokenized. */
const longestExactText = 131_072

/** The default of 100,000 entries would let adversarial text hold 100 MB. */
const mergeCacheEntries = 4096

/** Text that spells a special token, such as `<|endoftext|>`, is text like any other. */
const plainText = { allowedSpecial: new Set<string>(), disallowedSpecial: new Set<string>() }

let loaded: Encoding | undefined

/** Loading the ranks takes 140 ms and 60 MB, so it waits for the first count; by `require`, since counting is synchronous. */
function encoding(): Encoding {
  if (!loaded) {
    loaded = createRequire(import.meta.url)('gpt-tokenizer/encoding/o200k_base') as Encoding
    loaded.setMergeCacheSize(mergeCacheEntries)
  }
  return loaded
}

/**
 * Tokens of `text` in o200k_base, the encoding of GPT-4o and every OpenAI model since. Exact for ordinary text; at most a token
 * or two more for each 256 characters without whitespace. Past 131,072 characters each further UTF-8 byte counts as a
 * token, which no encoding exceeds: far over any limit is all a caller needs to know. Takes at most half a second.
 */
export function countTokens(text: string): number {
  const beyond = text.length > longestExactText ? Buffer.byteLength(text.slice(longestExactText)) : 0
  let tokens = beyond
  text
    .slice(0, longestExactText)
    .split(longRuns)
    .forEach((part, index) => {
      // `split` puts what the pattern captured, the long runs, at the odd places.
      if (index % 2 === 0) tokens += encoding().countTokens(part, plainText)
      else for (const [slice] of part.matchAll(slices)) tokens += encoding().countTokens(slice, plainText)
    })
  return tokens
}
