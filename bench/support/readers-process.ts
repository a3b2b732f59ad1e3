import { Readers, type ReadersCount, type ReadersOptions } from './readers.ts'

/** What the readers' process is told. */
export type ToReaders = ({ kind: 'begin' } & ReadersOptions) | { kind: 'take' } | { kind: 'end' }

/** What it answers, to everything with what was done since. */
export type FromReaders = { [Kind in ToReaders['kind']]: { kind: Kind } & ReadersCount }[ToReaders['kind']]

// A process of its own: what clients do is neither in the platform's figures nor in the measuring process' way.
let readers: Readers | null = null

process.on('message', async (message: ToReaders) => {
  if (message.kind === 'begin') readers = new Readers(message)
  if (message.kind === 'end') await readers?.end()
  if (readers) process.send?.({ kind: message.kind, ...readers.take() } as FromReaders)
})
// It must not outlive the process that it serves.
process.on('disconnect', () => process.exit())
