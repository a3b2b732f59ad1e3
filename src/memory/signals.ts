import type { Signal, Signals, Unsubscribe } from '../domain/ports.ts'
import { MemoryChannels } from './channels.ts'

/** The signals of a single process. */
export class MemorySignals implements Signals {
  readonly #channels: MemoryChannels<Signal>

  /** `onError` is given what a listener throws. */
  constructor(options: { onError: (error: unknown) => void }) {
    this.#channels = new MemoryChannels(options.onError)
  }

  async publish(signal: Signal): Promise<void> {
    this.#channels.publish('signals', signal)
  }

  async subscribe(listener: (signal: Signal) => void): Promise<Unsubscribe> {
    return this.#channels.subscribe('signals', listener)
  }
}
