import type { Plan, Tenant, TenantStatus } from '../data/generated/client.ts'
import type { OperatorCall } from '../data/tenant-register.ts'
import { createDefaultAgent, type NewAgent } from './agent.ts'
import { type AuditActor, auditRow } from './audit.ts'
import type { OperatorScope, Principal } from './authenticate.ts'
import { Conflict, NotFound } from './errors.ts'
import { isUuid, newId, tenantIdOf } from './ids.ts'
import { enrolMember, type NewMember } from './member.ts'
import { earlierResult, operatorCall } from './operator-call.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import { quotaSourceOf } from './quota-terms.ts'
import { noVersions, type Platform, requireRole, type Scope, type TenantProfile } from './scope.ts'
import { cleanText } from './text.ts'

/** For staff their own tenant, and no other; for operators any, and null when they name none. Null when there is none. */
export async function findTenant(principal: Principal, id?: string | null): Promise<TenantProfile | null> {
  if (principal.kind === 'tenant') {
    requireRole(principal.scope, 'MEMBER')
    const { tenant } = principal.scope
    return id == null || id === tenant.id ? tenant : null
  }
  const tenant = id != null && isUuid(id) ? await principal.operator.catalog.findTenant(id) : null
  return tenant && profileOf(tenant)
}

/** The tenant. Throws NotFound when there is none, or it is erased. */
export async function presentTenant({ catalog }: OperatorScope, tenantId: string): Promise<TenantProfile> {
  const tenant = isUuid(tenantId) ? await catalog.findTenant(tenantId) : null
  if (!tenant || tenant.status === 'ERASED') throw new NotFound('tenant')
  return profileOf(tenant)
}

export type TenantFilter = {
  status?: TenantStatus | null
  plan?: Plan | null
  /** How the name begins, in the same letter case. */
  namePrefix?: string | null
}

/** All tenants, newest first. Throws ValidationProblem as `paginate` does. For operators. */
export async function listTenants(
  { catalog }: OperatorScope,
  page: PageArgs,
  filter: TenantFilter = {},
): Promise<Page<TenantProfile>> {
  const { status, plan, namePrefix } = filter
  const prefix = namePrefix == null ? undefined : cleanText('namePrefix', namePrefix, { min: 0, max: longestName })
  return paginate(page, { direction: 'desc' }, async (where, orderBy, take) => {
    const name = prefix === undefined ? undefined : { startsWith: escapePattern(prefix) }
    const wanted = { ...where, status: status ?? undefined, plan: plan ?? undefined, name }
    return (await catalog.tenants.list(wanted, orderBy, take)).map(profileOf)
  })
}

export type TenantRegistration = { name: string; plan: Plan; agent: NewAgent; staff: NewMember[] }

export type RegisteredTenant = {
  tenant: TenantProfile
  /** One key for each of the staff, in their order, shown here and never again. */
  keys: string[]
}

/**
 * Registers a customer, with the agent that answers and a key for each of the staff. Throws a Conflict when the name is
 * taken. Repeating a registration that was cut off completes it.
 */
export async function registerTenant(platform: Platform, registration: TenantRegistration): Promise<RegisteredTenant> {
  const row = await reserveName(platform, registration, { kind: 'SYSTEM', id: null, name: 'Bulkhead' }, null)
  const registered = row && (await setUp(platform, row, registration))
  if (!registered) throw nameIsTaken()
  return registered
}

export type CreateTenantInput = {
  name: string
  plan: Plan
  /** Makes the admin a member of the staff. Without it there is only the admin's key. */
  adminEmail?: string | null
  idempotencyKey?: string | null
}

/** `adminKey` is shown here and never again: null when an idempotency key repeats a call that was completed. */
export type CreatedTenant = { tenant: TenantProfile; adminKey: string | null }

/**
 * Registers a customer, with an agent that answers and a key for its first admin. Throws a Conflict when the name is taken, or the
 * idempotency key came with another input. Repeating a call that was cut off completes it. For operators.
 */
export async function createTenant(
  scope: OperatorScope,
  { idempotencyKey, ...input }: CreateTenantInput,
): Promise<CreatedTenant> {
  const email = input.adminEmail == null ? null : cleanText('adminEmail', input.adminEmail, { max: 254 })
  const registration: TenantRegistration = {
    ...{ name: input.name, plan: input.plan },
    agent: { slug: 'assistant', name: 'Assistant' },
    staff: [{ name: 'Admin', email, role: 'ADMIN' }],
  }
  const call = operatorCall(scope, 'createTenant', idempotencyKey, input)
  // An equal call may be faster between the first look and the reservation.
  const id =
    (await earlierResult(scope, call)) ??
    (await reserveName(scope, registration, { kind: 'OPERATOR', ...scope.operator }, call))?.id ??
    (await earlierResult(scope, call))
  const row = id === null ? null : await scope.catalog.findTenant(id)
  if (!row) throw nameIsTaken()
  const registered = await setUp(scope, row, registration)
  if (registered) return { tenant: registered.tenant, adminKey: registered.keys[0] ?? null }
  if (!call) throw nameIsTaken()
  return { tenant: profileOf(row), adminKey: null }
}

/** The tenant's row: a new one, or that of a registration that was cut off. Null when the name is taken, or `call` was made before. */
function reserveName(
  { catalog, ports }: Platform,
  { plan, ...registration }: TenantRegistration,
  by: AuditActor,
  call: OperatorCall | null,
): Promise<Tenant | null> {
  const name = cleanText('name', registration.name, { max: longestName })
  const id = newId()
  const entry = { action: 'createTenant', subject: 'Tenant' as const, subjectId: id, details: { name, plan } }
  return catalog.tenants.reserve({ id, name, plan }, auditRow(id, by, entry, ports.now()), call)
}

/**
 * Gives the tenant its agent and its staff. Null when it has them.
 *
 * Its row is the platform's to write and all else the tenant's: two roles, hence two transactions.
 */
async function setUp(
  { data, ports, settings }: Platform,
  row: Tenant,
  { agent, staff }: TenantRegistration,
): Promise<RegisteredTenant | null> {
  const tenant = profileOf(row)
  const db = data.of({ tenantId: tenant.id, userId: null })
  const actor = { id: newId(), name: 'Registration', role: 'ADMIN' as const, userId: null }
  // Nobody signed in for it.
  const unsigned = { asOf: noVersions, renew: async () => null }
  const scope: Scope = { tenant, actor, db, quotaSource: quotaSourceOf(db, tenant.id), ports, settings, ...unsigned }
  return db.$transaction(async (tx) => {
    const [found] = await tx.$queryRaw<{ isBare: boolean }[]>`
      select default_agent_id is null and status = 'ACTIVE' as "isBare" from tenants
      where id = ${tenant.id}::uuid for no key update`
    if (!found?.isBare) return null
    const { id: defaultAgentId } = await createDefaultAgent(scope, tx, agent)
    const keys: string[] = []
    for (const member of staff) keys.push(await enrolMember(scope, tx, member))
    return { tenant: { ...tenant, defaultAgentId }, keys }
  })
}

/** Most bytes of a tenant's name. */
const longestName = 100

function nameIsTaken(): Conflict {
  return new Conflict('The name is taken.')
}

/** `text` as a pattern of LIKE that only it matches. */
function escapePattern(text: string): string {
  return text.replace(/[\\%_]/g, '\\$&')
}

export function profileOf(tenant: Tenant): TenantProfile {
  return { ...tenant, id: tenantIdOf(tenant.id) }
}
