import type { Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'

/** After so many pieces at a time the next are left in the kernel until they are taken: to read each costs more than what is in it. */
const manyPieces = 3

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
  /** Pieces that were taken last. */
  #taken = 0
  #isHeldBack = false
  #caughtUp: Promise<void> | null = null

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

  /** Lets more come until `beat`, unless there is no more, or enough. Where much comes at a time, the end is noticed at the beat. */
  async gather(beat: Promise<void>): Promise<void> {
    if (this.#isOver || this.#bytes >= mostAhead) return
    if (this.#taken >= manyPieces) {
      this.#isHeldBack = true
      this.#body.pause()
    }
    await Promise.race([beat, this.#next(false)])
    await this.catchUp()
  }

  /** Takes in what has come, where it was held back. */
  async catchUp(): Promise<void> {
    if (this.#isHeldBack) {
      this.#isHeldBack = false
      this.#caughtUp = this.#readOn()
    }
    await this.#caughtUp
  }

  async #readOn(): Promise<void> {
    if (this.#isOver) return
    this.#body.resume()
    // What this turn of the event loop still has to do may be past its reading.
    await nextTurn()
    await nextTurn()
  }

  /** All that came, once there is something; null after the last of it. Throws what broke it off, after all that came before. */
  async take(): Promise<Uint8Array | null> {
    if (this.#bytes === 0 && !this.#isOver) await this.#next(true)
    const chunks = this.#chunks
    this.#taken = chunks.length
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
