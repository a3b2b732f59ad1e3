// @module-tag rule-17
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createApiKey, revokeApiKey } from '../../src/domain/api-key.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { newId } from '../../src/domain/ids.ts'
import { cancelRun, findRun } from '../../src/domain/run.ts'
import { claimRun } from '../../src/domain/run-claim.ts'
import { apiKeyRevoked, tenantSuspended } from '../../src/domain/run-stop.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { resumeTenant, suspendTenant } from '../../src/domain/tenant-standing.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { atCommit } from '../support/at-commit.ts'
import { adminQuery } from '../support/database-url.ts'
import { signInOperator } from '../support/operator.ts'
import { ask, follow, startWorker, until } from '../support/run-story.ts'
import { hangsAfter, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory, withoutSignals } from '../support/story.ts'

let story: Story

beforeAll(async () => {
  story = await startStory()
})

afterAll(() => story.close())

const stopped = ({ code, message }: { code: string; message: string }) => ({
  status: 'CANCELLED',
  failureCode: code,
  failureMessage: message,
  finishedAt: expect.any(Date),
})

/** A new member's scope and the id of the key that it came with. */
async function newMember(admin: Scope) {
  const { apiKey, secret } = await createApiKey(admin, { name: 'Doomed', role: 'MEMBER' })
  return { apiKeyId: apiKey.id, scope: await story.signIn(secret ?? '') }
}

/** Ports of a worker that no signal reaches. */
function deaf() {
  return { ...story.ports, signals: new MemorySignals({ onError: () => undefined }) }
}

const isClaimed = (scope: Scope, runId: string) => async () => (await findRun(scope, runId))?.status === 'RUNNING'

describe('a revoked key', () => {
  it('takes its waiting runs with it at once, and leaves those of others alone', async () => {
    const { admin, member } = await story.tenant()
    const { apiKeyId, scope } = await newMember(admin)
    const { id } = await createConversation(member, {})
    const runs = [await ask(scope, 'a', id), await ask(scope, 'b'), await ask(member, 'c', id)].map(({ run }) => run.id)
    expect((await findRun(admin, runs[0] ?? ''))?.apiKeyId).toBe(apiKeyId)
    await revokeApiKey(admin, { apiKeyId })
    for (const run of runs.slice(0, 2)) expect(await findRun(admin, run)).toMatchObject(stopped(apiKeyRevoked))
    expect(await findRun(admin, runs[2] ?? '')).toMatchObject({ status: 'QUEUED', cancelRequestedAt: null, failureCode: null })
  })

  it('takes a running one with it, whose text stays', async () => {
    const { admin } = await story.tenant()
    const { apiKeyId, scope } = await newMember(admin)
    await using _ = await startWorker(story, { model: scriptedModel([hangsAfter(['Once upon'])]) })
    const { run } = await ask(scope)
    const events = follow(admin, run.id)
    await until(isClaimed(admin, run.id))
    await revokeApiKey(admin, { apiKeyId })
    expect((await events).at(-1)).toMatchObject({ type: 'RunCancelled' })
    expect(await findRun(admin, run.id)).toMatchObject(stopped(apiKeyRevoked))
  })

  it('takes a running one with it within a second when no signal gets out', async () => {
    const { admin } = await story.tenant()
    const { apiKeyId, scope } = await newMember(admin)
    await using _ = await startWorker(story, { model: scriptedModel([hangsAfter(['Once upon'])]), ports: deaf() })
    const { run } = await ask(scope)
    await until(isClaimed(admin, run.id))
    await revokeApiKey(withoutSignals(admin), { apiKeyId })
    const revokedAt = performance.now()
    await until(async () => (await findRun(admin, run.id))?.finishedAt !== null)
    expect(performance.now() - revokedAt).toBeLessThan(1_000)
    expect(await findRun(admin, run.id)).toMatchObject(stopped(apiKeyRevoked))
  })

  it('is found out when the run is claimed that was asked for while it was being revoked', async () => {
    const { admin, tenant } = await story.tenant()
    const { apiKeyId, scope } = await newMember(admin)
    const { run } = await ask(scope)
    // Whoever revoked it looked for its runs before this one was committed.
    await admin.db.apiKey.updateMany({ where: { id: apiKeyId }, data: { revokedAt: new Date() } })
    const claimed = await claimRun(admin.db, tenant.id, newId())
    expect(claimed).toMatchObject({
      run: { id: run.id, failureCode: 'API_KEY_REVOKED', cancelRequestedAt: expect.any(Date) },
    })
  })

  it('does not change why a run had to end before', async () => {
    const { admin } = await story.tenant()
    const { apiKeyId, scope } = await newMember(admin)
    const { run } = await ask(scope)
    await admin.db.run.updateMany({ where: { id: run.id }, data: { cancelRequestedAt: new Date() } })
    await revokeApiKey(admin, { apiKeyId })
    expect(await findRun(admin, run.id)).toMatchObject({ status: 'CANCELLED', failureCode: null })
  })

  it('leaves the reason off a run that was completed all the same', async () => {
    const { admin } = await story.tenant()
    const { apiKeyId, scope } = await newMember(admin)
    const gate = Promise.withResolvers<void>()
    const script = async function* () {
      await gate.promise
      yield* says('done')({} as never, AbortSignal.timeout(0))
    }
    const timing = { watch: 60_000 }
    await using _ = await startWorker(story, { model: scriptedModel([script]), ports: deaf(), timing })
    const { run } = await ask(scope)
    await until(isClaimed(admin, run.id))
    await revokeApiKey(withoutSignals(admin), { apiKeyId })
    expect(await findRun(admin, run.id)).toMatchObject({ status: 'RUNNING', failureCode: 'API_KEY_REVOKED' })
    gate.resolve()
    await until(async () => (await findRun(admin, run.id))?.finishedAt !== null)
    expect(await findRun(admin, run.id)).toMatchObject({ status: 'COMPLETED', failureCode: null, failureMessage: null })
  })

  it('leaves more than a hundred waiting runs to the workers', async () => {
    const { admin } = await story.tenant({ plan: 'ENTERPRISE' })
    const { apiKeyId, scope } = await newMember(admin)
    const { id } = await createConversation(scope, {})
    for (let count = 0; count < 103; count++) await ask(scope, 'again', id)
    await revokeApiKey(admin, { apiKeyId })
    expect(await admin.db.run.count({ where: { finishedAt: null } })).toBe(3)
    const model = scriptedModel([says('never asked')])
    await using _ = await startWorker(story, { model })
    await until(async () => (await admin.db.run.count({ where: { finishedAt: null } })) === 0)
    expect(await admin.db.run.count({ where: { status: 'CANCELLED', failureCode: 'API_KEY_REVOKED' } })).toBe(103)
    // Those that other tenants left behind may have been.
    expect(model.requests.filter(({ messages }) => messages.at(-1)?.content === 'again')).toEqual([])
  })
})

describe('a suspended tenant', () => {
  it('has its runs ended, waiting or running, and those of no other', async () => {
    const operator = await signInOperator(story)
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const model = scriptedModel([hangsAfter(['Once upon'])])
    await using _ = await startWorker(story, { model, concurrency: 2 })
    const [running, theirs] = [await ask(acme.member), await ask(globex.member)]
    await until(isClaimed(acme.admin, running.run.id))
    await until(isClaimed(globex.admin, theirs.run.id))
    const waiting = await ask(acme.endUser)
    await suspendTenant(operator, { tenantId: acme.tenant.id, reason: 'No reason.' })
    // The worker that was freed may be at it.
    await until(async () => (await findRun(acme.admin, waiting.run.id))?.finishedAt !== null)
    expect(await findRun(acme.admin, waiting.run.id)).toMatchObject(stopped(tenantSuspended))
    await until(async () => (await findRun(acme.admin, running.run.id))?.finishedAt !== null)
    expect(await findRun(acme.admin, running.run.id)).toMatchObject(stopped(tenantSuspended))
    expect((await findRun(globex.admin, theirs.run.id))?.status).toBe('RUNNING')
    await cancelRun(globex.admin, { runId: theirs.run.id })
    await until(async () => (await findRun(globex.admin, theirs.run.id))?.finishedAt !== null)
  })

  it.each(['SUSPENDED', 'MOVING'])(
    'or one that is %s: its runs are not claimed, but for those that have to end',
    async (status) => {
      const { admin, tenant } = await story.tenant()
      const [first, second] = [await ask(admin), await ask(admin)]
      const setStatus = (to: string) =>
        adminQuery(story.database.adminUrl, `update tenants set status = '${to}' where id = '${tenant.id}'`)
      await setStatus(status)
      expect(await claimRun(admin.db, tenant.id, newId())).toBeNull()
      await admin.db.run.updateMany({ where: { id: second.run.id }, data: { cancelRequestedAt: new Date() } })
      expect(await claimRun(admin.db, tenant.id, newId())).toMatchObject({ run: { id: second.run.id } })
      expect(await claimRun(admin.db, tenant.id, newId())).toBeNull()
      await setStatus('ACTIVE')
      expect(await claimRun(admin.db, tenant.id, newId())).toMatchObject({ run: { id: first.run.id } })
    },
  )

  it('that is resumed has what still waits executed', async () => {
    const operator = await signInOperator(story)
    const { member, tenant } = await story.tenant()
    const { run } = await ask(member)
    // Whoever suspended it looked for its runs before this one was committed.
    await adminQuery(story.database.adminUrl, `update tenants set status = 'SUSPENDED' where id = '${tenant.id}'`)
    await using _ = await startWorker(story, { model: scriptedModel([says('Here I am.')]) })
    await resumeTenant(operator, { tenantId: tenant.id })
    expect((await follow(member, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
  })
})

it.each([
  ['a revoked key', apiKeyRevoked, ({ actor }: Scope) => `update api_keys set revoked_at = now() where id = '${actor.id}'`],
  [
    'a suspended tenant',
    tenantSuspended,
    ({ tenant }: Scope) => `update tenants set status = 'SUSPENDED' where id = '${tenant.id}'`,
  ],
])('%s takes a run with it that was being stored meanwhile', async (_what, reason, shutOut) => {
  const { admin } = await story.tenant()
  const { scope } = await newMember(admin)
  const content = `Too late: ${reason.code}`
  await atCommit(story, content, shutOut(scope))
  await using _ = await startWorker(story, { model: scriptedModel([hangsAfter(['Once upon'])]) })
  const { run } = await ask(scope, content)
  expect(run.status).toBe('RUNNING')
  expect((await follow(admin, run.id)).at(-1)).toMatchObject({ type: 'RunCancelled' })
  expect(await findRun(admin, run.id)).toMatchObject(stopped(reason))
})
