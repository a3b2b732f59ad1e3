import { Unavailable } from '../domain/errors.ts'

/**
 * The outcome of `work`, if there is one before `until`, by `performance.now()`; else throws Unavailable. The work goes on all the
 * same: whether it will have had its effect is not known.
 */
export async function before<T>(until: number, work: PromiseLike<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Unavailable(tooLate, retryAfterSeconds)), Math.max(0, until - performance.now()))
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

const tooLate = 'There was no answer in time. What was asked for may have been done: ask again with the same idempotency key.'

const retryAfterSeconds = 2
