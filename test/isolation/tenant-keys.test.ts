import { execFileSync } from 'node:child_process'
import { join, relative } from 'node:path'
import { expect, it } from 'vitest'
import type { Admission } from '../../src/domain/admission.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { EventLog, RunQueue, RunRef, Signals, Toolbox } from '../../src/domain/ports.ts'

// Everything whose key, channel or cache is of one tenant, called with any text for a tenant. This compiles only as long as
// each such call is an error.
function withAnyText(
  eventLog: EventLog,
  runQueue: RunQueue,
  signals: Signals,
  tools: Toolbox,
  admission: Admission,
  text: string,
): void {
  // @ts-expect-error a run is named with its verified tenant
  const run: RunRef = { tenantId: text, runId: text }
  // @ts-expect-error so is the log that is appended to,
  void eventLog.append({ tenantId: text, runId: text }, 1, 1, [])
  // @ts-expect-error read,
  void eventLog.read({ tenantId: text, runId: text }, null)
  // @ts-expect-error and followed
  void eventLog.subscribe({ tenantId: text, runId: text }, () => undefined, run)
  // @ts-expect-error a wake-up is for a verified tenant
  void runQueue.wake(text)
  // @ts-expect-error so is a signal about who may do what,
  void signals.publish({ type: 'AccessChanged', tenantId: text })
  // @ts-expect-error and about a run
  void signals.publish({ type: 'CancelRun', tenantId: text, runId: text })
  // @ts-expect-error so are the tools
  void tools.available(text)
  // @ts-expect-error so is what is used of limits, when it is decided by it,
  void admission.admit(text, { version: 1, runId: text, key: null, contentTokens: 1, reserve: 1 })
  // @ts-expect-error and read
  void admission.read(text, 1)
  // @ts-expect-error and none of them has a default
  void runQueue.wake()
}

it('a key, channel or cache without a verified tenant is a type error', { tags: ['rule-13'], timeout: 60_000 }, () => {
  const root = join(import.meta.dirname, '../..')
  const file = relative(root, import.meta.filename)
  const tsc = join(root, 'node_modules/.bin/tsc')
  const options = ['--ignoreConfig', '--noEmit', '--strict', '--target', 'es2024', '--module', 'nodenext', '--types', 'node']
  const told = execFileSync(
    tsc,
    [...options, '--lib', 'es2024,esnext.disposable', '--skipLibCheck', '--allowImportingTsExtensions', file],
    {
      cwd: root,
      encoding: 'utf8',
    },
  )
  expect([told, typeof withAnyText]).toEqual(['', 'function'])
})

it('a verified tenant is a UUID in its one form, or nothing', { tags: ['rule-13'] }, () => {
  const id = newId()
  expect(tenantIdOf(id)).toBe(id)
  for (const text of ['', 'tenant', '*', id.toUpperCase(), `{${id}}`, `${id}:`, ` ${id}`, `${id}\n`, id.replaceAll('-', '')]) {
    expect(() => tenantIdOf(text), text).toThrow(TypeError)
  }
})
