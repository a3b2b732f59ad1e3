import type { ClaimedRun } from './run-claim.ts'

/** Executes runs that were claimed in the name of its worker. `serve` resolves when it is done with one, and never rejects. */
export type Host = { workerId: string; serve: (claimed: ClaimedRun) => Promise<void> }

/**
 * A consumer's place for one run, which nobody waits for. Whoever has it claims a run in the name of `workerId` and begins it, which resolves
 * when the worker is done with it, or gives the place back, which does nothing once it has begun.
 */
export type Place = { workerId: string; begin: (claimed: ClaimedRun) => Promise<void>; giveBack: () => void }

/** A place at `host`, among the runs that are under way there. `onFree` is called when there is room for another. */
export function placeAmong(running: Set<Promise<void>>, host: Host, onFree: () => void): Place {
  const { promise, resolve } = Promise.withResolvers<void>()
  running.add(promise)
  void promise.then(() => {
    running.delete(promise)
    onFree()
  })
  let hasBegun = false
  return {
    workerId: host.workerId,
    begin(claimed) {
      hasBegun = true
      return host.serve(claimed).finally(resolve)
    },
    giveBack() {
      if (!hasBegun) resolve()
    },
  }
}
