import type { Unsubscribe } from './ports.ts'

/**
 * Does `work` now and `period` milliseconds after each time it was done, until the returned function is called, which waits
 * for what is under way. `onError` is given what `work` throws; the next time comes all the same.
 */
export function startTicker(period: number, work: () => Promise<void>, onError: (error: unknown) => void): Unsubscribe {
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  let working = Promise.resolve()
  const tick = () => {
    working = work()
      .catch(onError)
      .then(() => {
        if (!stopped) timer = setTimeout(tick, period)
      })
  }
  tick()
  return async () => {
    stopped = true
    clearTimeout(timer)
    await working
  }
}
