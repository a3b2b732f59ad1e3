import { setTimeout as delay } from 'node:timers/promises'
import type { ErasureRecord } from '../data/erasures.ts'
import { dependentsOf, tenantTables } from '../data/tenant-tables.ts'
import type { OperatorScope } from './authenticate.ts'
import { Conflict, NotFound, Unavailable, ValidationProblem } from './errors.ts'
import { isUuid, type TenantId, tenantIdOf } from './ids.ts'
import type { Unsubscribe } from './ports.ts'
import type { Platform } from './scope.ts'
import { startTicker } from './ticker.ts'

export type { ErasureRecord } from '../data/erasures.ts'

/** Tables whose rows outlive the tenant, with the reason. */
const retained: Readonly<Record<string, string>> = {
  usage_records: 'The law asks for the books. They know end users by a pseudonym, and what it stands for is erased.',
  tenant_prices: 'What the books were charged at.',
}

/** What the certificate calls what is kept outside of Postgres: runs that there are events of, and what counts against the limits. */
const eventStreams = 'event_streams'
const quotaCounters = 'quota_counters'

/** How long a caller waits for the certificate, in milliseconds. A large tenant takes longer, and the erasure goes on. */
const patience = 20_000

/** Between two looks for erasures that nobody goes on with, in milliseconds. */
const sweepEvery = 5_000

/**
 * Erases all data of a tenant, for good, and answers the certificate: what was found, erased and kept. Its `finishedAt` is null when
 * that takes longer than 20 seconds; then, as when this process ends, it goes on by itself, and repeating the call tells how far it is.
 * A tenant that is erased keeps its certificate. `confirmName` is the tenant's name, asked for the first time only: nothing tells the
 * name afterwards. Throws NotFound, a ValidationProblem when the name is another, and a Conflict while the tenant is being moved.
 * For operators.
 */
export async function eraseTenant(
  scope: OperatorScope,
  input: { tenantId: string; confirmName: string },
): Promise<{ certificate: ErasureRecord }> {
  const { erasures } = scope.catalog
  if (!isUuid(input.tenantId)) throw new NotFound('tenant')
  const tenantId = tenantIdOf(input.tenantId)
  const exists = await erasures.begin(tenantId, scope.operator, ({ name, isMoving }) => {
    if (name !== input.confirmName)
      throw new ValidationProblem(['confirmName'], "This is not the tenant's name. Nothing was erased.")
    if (isMoving) throw new Conflict('The tenant is being moved to another database. Erase it when it has arrived there.')
  })
  if (!exists) throw new NotFound('tenant')
  // Sockets and runs end at once. Who does not hear it finds out by asking.
  await Promise.allSettled([scope.ports.signals.publish({ type: 'AccessChanged', tenantId })])
  await Promise.race([untilFinished(scope, tenantId), delay(patience, undefined, { ref: false })])
  const certificate = await erasures.find(tenantId)
  if (!certificate) throw new Error('The erasure that was begun is not in the catalogue.')
  return { certificate }
}

/** A tenant's certificate; null when nobody asked for its erasure. For operators. */
export async function findErasure(scope: OperatorScope, tenantId: string): Promise<ErasureRecord | null> {
  return isUuid(tenantId) ? scope.catalog.erasures.find(tenantId) : null
}

/** Goes on, again and again, with erasures that were begun and not finished, whichever process began them. */
export function startErasureSweep(platform: Platform, onError: (error: unknown) => void): Unsubscribe {
  const sweep = async () => {
    for (const tenantId of await platform.catalog.erasures.unfinished()) await goOn(platform, tenantId).catch(onError)
  }
  return startTicker(sweepEvery, sweep, onError)
}

async function untilFinished(platform: Platform, tenantId: TenantId): Promise<void> {
  while (!(await goOn(platform, tenantId))) await delay(200, undefined, { ref: false })
}

/** Whether the erasure is finished. False when another process is at it. */
function goOn(platform: Platform, tenantId: TenantId): Promise<boolean> {
  const { erasures } = platform.catalog
  return erasures.alone(tenantId, async () => {
    const erasure = await erasures.find(tenantId)
    if (erasure?.finishedAt === null) await erase(platform, tenantId)
  })
}

/** From wherever it was interrupted. Throws Unavailable when something is left behind: then somebody still writes. */
async function erase({ catalog, ports, settings }: Platform, tenantId: TenantId): Promise<void> {
  const { erasures } = catalog
  const { eventLog, admission } = ports
  const outside = async () => ({
    [eventStreams]: await eventLog.count(tenantId),
    [quotaCounters]: await admission.count(tenantId),
  })
  await erasures.awaitWriters(tenantId)
  const openRuns = await erasures.openRuns(tenantId)
  await erasures.noteFound(tenantId, await outside())
  await erasures.eraseRows(tenantId, keysAndSecrets)
  ports.vault.forget(tenantId)
  // While the runs are known: whoever works on one and does not know yet must not write to its log.
  await eventLog.erase(tenantId, openRuns)
  await erasures.eraseRows(tenantId, rowsInOrder)
  // Last, since who still works on a run may count for it until its rows are gone.
  await admission.erase(tenantId)

  const left = await erasures.finish(tenantId, Object.keys(retained), await outside(), settings.backupRetentionDays)
  if (Object.keys(left).length > 0) {
    throw new Unavailable(
      `The erasure goes on: there still are ${Object.keys(left).join(', ')}. Ask again for its certificate.`,
      5,
    )
  }
}

/** First what makes secrets unreadable, then all else, each table before those that it refers to. */
const keysAndSecrets = dependentsOf('DataKey')
const rowsInOrder = tenantTables.filter(({ name }) => !Object.hasOwn(retained, name)).toReversed()
