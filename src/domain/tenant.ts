import type { Catalog } from '../data/catalog.ts'
import type { Plan, Tenant } from '../data/generated/client.ts'
import { createDefaultAgent, type NewAgent } from './agent.ts'
import type { Principal } from './authenticate.ts'
import { Conflict } from './errors.ts'
import { isUuid, newId, tenantIdOf } from './ids.ts'
import { enrolMember, type NewMember } from './member.ts'
import { type Platform, requireRole, type Scope, type TenantProfile } from './scope.ts'
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
  const { data, ports, settings } = platform
  const { agent, staff } = registration
  // Its row is the platform's to write and all else the tenant's: two roles, hence two transactions.
  const tenant = await reserveName(platform.catalog, registration)
  const db = data.of({ tenantId: tenant.id, userId: null })
  const scope: Scope = { tenant, actor: { id: newId(), name: 'Registration', role: 'ADMIN', userId: null }, db, ports, settings }

  return db.$transaction(async (tx) => {
    const [row] = await tx.$queryRaw<{ isComplete: boolean }[]>`
      select default_agent_id is not null as "isComplete" from tenants where id = ${tenant.id}::uuid for no key update`
    if (row?.isComplete !== false) throw nameIsTaken()
    const { id: defaultAgentId } = await createDefaultAgent(scope, tx, agent)
    const keys: string[] = []
    for (const member of staff) keys.push(await enrolMember(scope, tx, member))
    return { tenant: { ...tenant, defaultAgentId }, keys }
  })
}

/** The tenant's row: the one that is there, or a new one. */
async function reserveName(catalog: Catalog, registration: TenantRegistration): Promise<TenantProfile> {
  const name = cleanText('name', registration.name, { max: 100 })
  const existing = await catalog.findTenantByName(name)
  if (existing) return profileOf(existing)
  try {
    await catalog.createTenant({ id: newId(), name, plan: registration.plan })
  } catch (error) {
    // Prisma's code for a unique constraint: somebody was faster.
    if (error instanceof Error && 'code' in error && error.code === 'P2002') throw nameIsTaken()
    throw error
  }
  return reserveName(catalog, registration)
}

function nameIsTaken(): Conflict {
  return new Conflict('The name is taken.')
}

function profileOf(tenant: Tenant): TenantProfile {
  return { ...tenant, id: tenantIdOf(tenant.id) }
}
