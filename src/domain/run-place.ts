import type { Host, Place } from './ports.ts'

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
      void host.serve(claimed).finally(resolve)
    },
    giveBack() {
      if (!hasBegun) resolve()
    },
  }
}
