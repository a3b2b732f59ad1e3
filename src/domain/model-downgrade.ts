import type { AgentConfig } from '../data/generated/client.ts'
import { Unavailable } from './errors.ts'
import { tenantIdOf } from './ids.ts'
import { termsAt } from './pricing.ts'
import { seeded } from './quota-terms.ts'
import type { RunTask } from './run-loop.ts'
import { turnsOf } from './run-turn.ts'

/**
 * The configuration that a claimed run is answered with: the agent's, or that with the cheaper model of its tenant's choice once the
 * month's tokens are nearly spent. The run says which, from then on. Null when the run is no longer that claim's.
 *
 * It costs another round trip to the counters, for tenants that chose such a model. While they cannot be reached, the agent's own answers.
 */
export async function answeringConfig(task: RunTask): Promise<AgentConfig | null> {
  const { run, db, ports, tenant } = task
  // A run keeps the model that answered it last.
  const config = { ...run.config, model: run.model }
  if (run.downgradedFrom !== null) return config
  const { downgradeModel } = tenant
  if (downgradeModel === null || downgradeModel === config.model || turnsOf(run).length > 0) return config
  if (!(await isNearlySpent(task))) return config
  if (!(await termsAt(db, tenantIdOf(run.tenantId), downgradeModel, ports.now()))) return config
  const change = { model: downgradeModel, downgradedFrom: run.config.model }
  const { count } = await db.run.updateMany({ where: { id: run.id, epoch: run.epoch, status: 'RUNNING' }, data: change })
  if (count === 0) return null
  Object.assign(run, change)
  return { ...config, model: downgradeModel }
}

async function isNearlySpent({ quota, tenant }: RunTask): Promise<boolean> {
  try {
    const { terms, spent } = (await seeded(quota, (version) => quota.ports.admission.read(quota.tenant.id, version))).quota
    return spent * 100 >= terms.limits.MONTHLY_TOKENS * tenant.downgradeAt
  } catch (error) {
    if (error instanceof Unavailable) return false
    throw error
  }
}
