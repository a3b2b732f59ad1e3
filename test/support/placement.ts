import { randomBytes } from 'node:crypto'
import { type MoverOptions, TenantMover } from '../../src/data/tenant-move.ts'
import { masterKeysOf } from '../../src/secrets/master-keys.ts'
import { createPlatformCipher } from '../../src/secrets/platform-cipher.ts'
import type { TestDatabase } from './postgres.ts'

/** The platform's master key in one test process, and its cipher. */
export const testMasterKey = randomBytes(32).toString('base64')
export const testCipher = createPlatformCipher(masterKeysOf(testMasterKey))

/** A move without patience, which ends at the end of the block that has it. `lines` is what it said. */
export type TestMover = AsyncDisposable & { mover: TenantMover; lines: string[] }

export function testMover({ appUrl, platformUrl }: TestDatabase, options: Partial<MoverOptions> = {}): TestMover {
  const lines: string[] = []
  const mover = new TenantMover({
    ...{ appUrl, platformUrl, cipher: testCipher, strict: false, onProgress: (line: string) => void lines.push(line) },
    ...options,
    timing: { drain: 2_000, settle: 200, grace: 200, ...options.timing },
  })
  return { mover, lines, [Symbol.asyncDispose]: () => mover.close() }
}
