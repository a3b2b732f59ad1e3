import { once } from 'node:events'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { RedisAdmission } from '../../src/redis/admission.ts'
import { connectRedis } from '../../src/redis/connection.ts'

// A process of its own that admits as many messages as it gets and says how many, and at the next message holds as many tokens as it
// gets and says how many. Started by `fork`.
process.once('message', async ({ url, tenant, messages }: { url: string; tenant: string; messages: number }) => {
  const tenantId = tenantIdOf(tenant)
  const connection = await connectRedis({ mode: 'single', url }, { onError: () => undefined, commandTimeout: 10_000 })
  const admission = new RedisAdmission(connection)
  const decisions = await Promise.all(
    Array.from({ length: messages }, () =>
      admission.admit(tenantId, { version: 1, runId: newId(), key: null, contentTokens: 1, reserve: 10 }),
    ),
  )
  const runs = decisions.flatMap((decision) => (decision.outcome === 'admitted' ? [decision.runId] : []))
  process.send?.(runs.length)
  await once(process, 'message')
  let held = 0
  for (const runId of runs) {
    const outcome = await admission.hold(tenantId, { version: 1, runId, call: `${runId}/1/1`, tokens: 70, least: 1 })
    if (outcome.outcome === 'held') held += outcome.tokens
  }
  await connection.close()
  process.send?.(held, () => process.disconnect())
})
