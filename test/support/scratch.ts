import { mkdtemp, statfs } from 'node:fs/promises'
import { freemem, tmpdir } from 'node:os'
import { join } from 'node:path'

/** What a run of all tests may come to hold at a time, with room to spare: 4 GiB. */
const roomNeeded = 4 * 2 ** 30

/**
 * A new directory for what a database writes: in memory where Linux offers that and there is room, since most of what it takes to
 * copy a template database is making its 450 files; else where temporary files go. Nothing in it need be executable.
 */
export async function makeScratchDirectory(prefix: string): Promise<string> {
  return mkdtemp(join(await scratchRoot(), prefix))
}

async function scratchRoot(): Promise<string> {
  const memory = '/dev/shm'
  const room = await statfs(memory).then(
    ({ bavail, bsize }) => Math.min(bavail * bsize, freemem()),
    () => 0,
  )
  return room >= roomNeeded ? memory : tmpdir()
}
