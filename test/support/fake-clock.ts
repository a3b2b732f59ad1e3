import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Where Debian puts libfaketime, on the architectures that Node runs on. */
const library = ['x86_64', 'aarch64']
  .map((machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketimeMT.so.1`)
  .find((path) => existsSync(path))

/** Whether tests that set clocks run: libfaketime is installed. In CI they always run, and fail without it. */
export const fakeClockAvailable = process.env['CI'] === 'true' || library !== undefined

/** The wall clock of processes that are started with `env`. */
export type FakeClock = {
  env: Record<string, string>
  /** Sets it so many seconds ahead of the real one, or behind. */
  set(seconds: number): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** A clock that is right at first. As when a clock is set, the monotonic one goes on. */
export async function startFakeClock(): Promise<FakeClock> {
  const directory = await mkdtemp(join(tmpdir(), 'bulkhead-clock-'))
  const offset = join(directory, 'offset')
  const set = (seconds: number) => writeFile(offset, `${seconds < 0 ? '' : '+'}${seconds}`)
  await set(0)
  return {
    env: {
      ...{ LD_PRELOAD: library ?? 'libfaketimeMT.so.1', FAKETIME_TIMESTAMP_FILE: offset },
      ...{ FAKETIME_NO_CACHE: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1' },
    },
    set,
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  }
}
