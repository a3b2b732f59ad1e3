import type { Readable } from 'node:stream'

/** So many bytes are not left to wait for more, and no more come until they are taken. */
const mostAhead = 65_536

/** What arrives of a body. Whoever takes it has all that came since the last time, in one piece. */
export class Arrivals {
  readonly #body: Readable
  #chunks: Uint8Array[] = []
  #bytes = 0
  #isOver = false
  #failure: Error | null = null
  #wake: (() => void) | null = null
  #wakesOnBytes = false

  constructor(body: Readable) {
    this.#body = body
    body.on('data', (chunk: Uint8Array) => this.#arrive(chunk))
    body.once('error', (error) => {
      this.#failure = error
      this.#end()
    })
    body.once('end', () => this.#end())
    body.once('close', () => this.#end())
  }

  /** Lets more come until `beat`, unless there is no more, or enough. */
  async gather(beat: Promise<void>): Promise<void> {
    if (!this.#isOver && this.#bytes < mostAhead) await Promise.race([beat, this.#next(false)])
  }

  /** All that came, once there is something; null after the last of it. Throws what broke it off, after all that came before. */
  async take(): Promise<Uint8Array | null> {
    if (this.#bytes === 0 && !this.#isOver) await this.#next(true)
    const chunks = this.#chunks
    this.#chunks = []
    if (this.#bytes >= mostAhead) this.#body.resume()
    this.#bytes = 0
    const [first] = chunks
    if (first) return chunks.length === 1 ? first : Buffer.concat(chunks)
    if (this.#failure) throw this.#failure
    return null
  }

  #arrive(chunk: Uint8Array): void {
    this.#chunks.push(chunk)
    this.#bytes += chunk.byteLength
    const isFull = this.#bytes >= mostAhead
    if (isFull) this.#body.pause()
    if (isFull || this.#wakesOnBytes) this.#wake?.()
  }

  #end(): void {
    this.#isOver = true
    this.#wake?.()
  }

  #next(onBytes: boolean): Promise<void> {
    this.#wakesOnBytes = onBytes
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }
}
