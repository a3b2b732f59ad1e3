import { isDeepStrictEqual } from 'node:util'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { checkModel } from './agent-config-change.ts'
import { recordAudit } from './audit.ts'
import type { OperatorScope, Principal } from './authenticate.ts'
import type { PastTimeZone } from './billing-month.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import { requireRole, type Scope, type TenantProfile, type TenantSettings } from './scope.ts'
import { secretName } from './secret.ts'
import { profileOf } from './tenant.ts'
import { cleanText } from './text.ts'
import { checkTimeZone } from './time-zone.ts'

/** What is to change; absent and null leave a setting as it is, but null for the downgrade model and for what is about a model key of its own, which then is none. */
export type TenantSettingsChange = { [Setting in keyof TenantSettings]?: TenantSettings[Setting] | null }

const mostThresholds = 10
const mostTimeZones = 100

/** Most bytes of a base URL. */
const longestUrl = 2_000

/**
 * Changes what a tenant decides about itself. Another time zone moves the days and months that are counted in, on every instance when
 * this returns. What is as it was changes nothing. Throws a ValidationProblem for a zone that the IANA database does not have,
 * thresholds that are not 1 to 100 and ascending, or more than 10, the 101st time zone, a model that agents could not have either, a secret that
 * there is not, and a base URL that may not be called or goes with no key. Without a key of its own the tenant has no base URL either. For admins.
 */
export async function updateTenantSettings(scope: Scope, change: TenantSettingsChange): Promise<{ tenant: TenantProfile }> {
  requireRole(scope, 'ADMIN')
  const { id } = scope.tenant
  const row = await scope.db.$transaction(async (tx) => {
    const set = await checkSettings(scope, tx, change)
    const [before] = await tx.$queryRaw<(TenantSettings & { pastTimeZones: PastTimeZone[] })[]>`
      select time_zone as "timeZone", quota_thresholds as "quotaThresholds", budget_behaviour as "budgetBehaviour",
        downgrade_model as "downgradeModel", downgrade_at as "downgradeAt",
        model_key_secret as "modelKeySecret", model_base_url as "modelBaseUrl",
        past_time_zones as "pastTimeZones"
      from tenants where id = ${id}::uuid for no key update`
    if (set.modelKeySecret === null) set.modelBaseUrl = null
    if (set.modelBaseUrl != null && (set.modelKeySecret ?? before?.modelKeySecret ?? null) === null)
      throw new ValidationProblem(
        ['modelBaseUrl'],
        "The platform's own key is not sent elsewhere. Name a secret with yours, too.",
      )
    const changed = Object.entries(set).filter(
      ([name, value]) => !isDeepStrictEqual(before?.[name as keyof TenantSettings], value),
    )
    if (changed.length > 0) {
      const details = Object.fromEntries(changed)
      const isAnotherZone = set.timeZone !== undefined && set.timeZone !== before?.timeZone
      const zones = isAnotherZone ? { pastTimeZones: zonesUntil(scope.ports.now(), before), limitsVersion: { increment: 1 } } : {}
      await tx.tenant.updateMany({ where: { id }, data: { ...details, ...zones } })
      await recordAudit(scope, tx, { action: 'updateTenantSettings', subject: 'Tenant', subjectId: id, details })
    }
    return tx.tenant.findFirst({ where: { id } })
  })
  if (!row) throw new NotFound('tenant')
  return { tenant: profileOf(row) }
}

/** The tenant's settings, for its staff and for operators. The catalogue, which an operator sees, does not have those of every tenant. */
export async function findSettings(principal: Principal, tenant: TenantProfile): Promise<TenantSettings> {
  if (principal.kind === 'tenant') {
    requireRole(principal.scope, 'MEMBER')
    return tenant
  }
  return residentSettings(principal.operator, tenant)
}

async function residentSettings({ catalog }: OperatorScope, tenant: TenantProfile): Promise<TenantSettings> {
  return (await catalog.quotas.findResident(tenant.id)) ?? tenant
}

async function checkSettings(
  scope: Scope,
  db: TenantTransaction,
  change: TenantSettingsChange,
): Promise<Partial<TenantSettings>> {
  const { timeZone, quotaThresholds, budgetBehaviour, downgradeModel, downgradeAt, modelKeySecret, modelBaseUrl } = change
  const set: Partial<TenantSettings> = {}
  if (timeZone != null) set.timeZone = checkTimeZone('timeZone', timeZone)
  if (quotaThresholds != null) set.quotaThresholds = checkThresholds(quotaThresholds)
  if (budgetBehaviour != null) set.budgetBehaviour = budgetBehaviour
  if (downgradeModel === null) set.downgradeModel = null
  else if (downgradeModel !== undefined) set.downgradeModel = await checkModel(scope, db, 'downgradeModel', downgradeModel)
  if (modelKeySecret !== undefined) set.modelKeySecret = await checkSecret(db, modelKeySecret)
  if (modelBaseUrl !== undefined) set.modelBaseUrl = checkBaseUrl(scope, modelBaseUrl)
  if (downgradeAt != null) {
    if (!isPercentage(downgradeAt)) throw new ValidationProblem(['downgradeAt'], 'The value must be from 1 to 100.')
    set.downgradeAt = downgradeAt
  }
  return set
}

async function checkSecret(db: TenantTransaction, name: string | null): Promise<string | null> {
  const isThere = async (known: string) =>
    secretName.test(known) && (await db.secret.findFirst({ where: { name: known }, select: { id: true } })) !== null
  if (name !== null && !(await isThere(name)))
    throw new ValidationProblem(['modelKeySecret'], 'There is no secret of this name. Set it with setSecret first.')
  return name
}

function checkBaseUrl({ ports }: Scope, text: string | null): string | null {
  if (text === null) return null
  const url = cleanText('modelBaseUrl', text, { max: longestUrl })
  const refusal = ports.egress.refusalOf(url)
  if (refusal !== null) throw new ValidationProblem(['modelBaseUrl'], refusal)
  // Paths are put behind it. What stands there may be a key, and keys are secrets.
  if (/[?#]/.test(url)) throw new ValidationProblem(['modelBaseUrl'], 'The URL must end with its path.')
  return url
}

/** The zones before the next one. Months that were charged are told by them, so that none is forgotten. */
function zonesUntil(now: number, before: (TenantSettings & { pastTimeZones: PastTimeZone[] }) | undefined): PastTimeZone[] {
  if (!before) return []
  if (before.pastTimeZones.length >= mostTimeZones)
    throw new ValidationProblem(['timeZone'], `The time zone can be changed ${mostTimeZones} times at most.`)
  return [...before.pastTimeZones, { zone: before.timeZone, until: now }]
}

function checkThresholds(thresholds: number[]): number[] {
  const path = ['quotaThresholds']
  if (thresholds.length > mostThresholds) {
    throw new ValidationProblem(path, `There can be at most ${mostThresholds} thresholds.`)
  }
  if (!thresholds.every(isPercentage)) throw new ValidationProblem(path, 'Each threshold must be from 1 to 100.')
  if (thresholds.some((threshold, index) => index > 0 && threshold <= (thresholds[index - 1] ?? 0))) {
    throw new ValidationProblem(path, 'The thresholds must ascend, and none may occur twice.')
  }
  return thresholds
}

function isPercentage(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && value <= 100
}
