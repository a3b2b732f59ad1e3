import type { ApiKey, Tenant } from '../data/generated/client.ts'
import type { TenantStatus } from '../data/generated/enums.ts'
import { columnsOf, takeModel } from '../data/model-columns.ts'
import { isOutage } from '../data/outage.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { type ApiKeyClaim, parseApiKey, verifySecret } from './credential.ts'
import { Unavailable } from './errors.ts'
import { tenantIdOf } from './ids.ts'
import { quotaSourceOf } from './quota-terms.ts'
import { noVersions, type Platform, type RowVersions, type Scope } from './scope.ts'

/**
 * What an operator may touch: the platform's catalogue, and no tenant's content. `data` is there for what has to be done in a
 * tenant's own scope, such as ending the runs of one that is suspended.
 */
export type OperatorScope = { operator: { id: string; name: string } } & Platform

/** Whose request it is. `expiresAt` is when the credential stops working, and null when it never does by itself. */
export type Principal = TenantPrincipal | { kind: 'operator'; operator: OperatorScope }

export type TenantPrincipal = { kind: 'tenant'; scope: Scope; expiresAt: Date | null }

/**
 * Who holds this credential; null for nobody. Malformed, unknown, wrong, revoked and expired keys, unknown and suspended
 * tenants all answer alike. Throws Unavailable when the database cannot tell.
 */
export type Authenticator = (credential: string | null) => Promise<Principal | null>

export function createAuthenticator(options: Platform): Authenticator {
  return async (credential) => {
    const claim = credential === null ? null : parseApiKey(credential)
    if (!claim) return null
    try {
      return claim.kind === 'operator' ? await operatorOf(claim, options) : await tenantOf(claim, options)
    } catch (error) {
      if (isOutage(error)) throw new Unavailable('Credentials cannot be checked right now.', 1, { cause: error })
      throw error
    }
  }
}

type ClaimOf<Kind> = Extract<ApiKeyClaim, { kind: Kind }>

async function operatorOf(claim: ClaimOf<'operator'>, options: Platform): Promise<Principal | null> {
  const key = await options.catalog.findOperatorKey(claim.id)
  const verified = verifySecret(claim.secret, key, options.settings.peppers)
  if (!verified || !key || key.revokedAt) return null
  return { kind: 'operator', operator: { ...options, operator: { id: key.id, name: key.name } } }
}

async function tenantOf(claim: ClaimOf<'tenant'>, options: Platform, isStale = false): Promise<Principal | null> {
  const { data, ports, settings } = options
  const staff = data.of({ tenantId: claim.tenantId, userId: null })
  const { key, tenant, asOf } = await readClaimed(staff, claim)
  if (tenant && tenant.databaseId !== null) {
    // It has moved since this process last looked. These rows are what it left behind.
    if (isStale) throw new Unavailable('The tenant is being moved to another database. Try again shortly.', 1)
    await data.refresh()
    return tenantOf(claim, options, true)
  }
  const verified = verifySecret(claim.secret, key, settings.peppers)
  if (!verified || !key || key.revokedAt || !isBefore(ports.now(), key.expiresAt)) return null
  if (!tenant || !servedStatuses.has(tenant.status)) return null

  const { id, name, role, userId } = key
  const isEndUser = role === 'END_USER'
  // An end user without an id would be let past the user wall, as staff is.
  if (isEndUser !== (userId !== null)) return null
  const tenantId = tenantIdOf(tenant.id)
  const db = isEndUser ? data.of({ tenantId, userId }) : staff
  return {
    kind: 'tenant',
    scope: {
      ...{ tenant: { ...tenant, id: tenantId }, actor: { id, name, role, userId } },
      ...{ db, quotaSource: quotaSourceOf(staff, tenantId), ports, settings, asOf },
      renew: async () => scopeIn(await tenantOf(claim, options)),
    },
    expiresAt: key.expiresAt,
  }
}

/** Whether the credential of a tenant's principal has stopped working by itself. */
export function isExpired({ expiresAt, scope }: TenantPrincipal): boolean {
  return !isBefore(scope.ports.now(), expiresAt)
}

/** The scope of a tenant's principal. */
export function scopeIn(principal: Principal | null): Scope | null {
  return principal?.kind === 'tenant' ? principal.scope : null
}

/** The key that is claimed and the tenant it would be of, in one round trip; null for what there is not. */
async function readClaimed(staff: TenantDb, { id, tenantId }: ClaimOf<'tenant'>) {
  const [row] = await staff.$queryShort<Record<string, unknown>[]>`
    select ${columnsOf('Tenant', 't', 'tenant.')}, ${columnsOf('ApiKey', 'k', 'key.')},
      json_build_object('tenant', t.xmin::text, 'key', k.xmin::text) as "asOf"
    from tenants t left join api_keys k on k.tenant_id = t.id and k.id = ${id}::uuid
    where t.id = ${tenantId}::uuid`
  if (!row) return { key: null, tenant: null, asOf: noVersions }
  const key = row['key.id'] === null ? null : takeModel<ApiKey>('ApiKey', row, 'key.')
  return { key, tenant: takeModel<Tenant>('Tenant', row, 'tenant.'), asOf: row['asOf'] as RowVersions }
}

/** A tenant that is being moved is still read; nothing of it is changed, see `requireWritable`. */
const servedStatuses: ReadonlySet<TenantStatus> = new Set<TenantStatus>(['ACTIVE', 'MOVING'])

/** Whether `now`, in milliseconds, is before `end`; null is the end of time. */
function isBefore(now: number, end: Date | null): boolean {
  return end === null || now < end.getTime()
}
