import type { Catalog } from '../data/catalog.ts'
import type { BudgetBehaviour, Plan, TenantRole, TenantStatus } from '../data/generated/enums.ts'
import type { TenantData, TenantDb } from '../data/tenant-scope.ts'
import type { Peppers } from './credential.ts'
import { Forbidden, Unavailable } from './errors.ts'
import type { TenantId } from './ids.ts'
import type { Ports } from './ports.ts'
import type { QuotaSource } from './quota-terms.ts'

/** The tenant as authentication read it. */
export type TenantProfile = {
  id: TenantId
  name: string
  plan: Plan
  status: TenantStatus
  defaultAgentId: string | null
  createdAt: Date
  /** Of what it may use, and of when its days and months begin: grows with every change. */
  limitsVersion: number
} & TenantSettings

/** What a tenant's admins decide about all of the tenant. */
export type TenantSettings = {
  /** An IANA time zone, in which its days and months begin. */
  timeZone: string
  /** At which percentages of a limit its admins are notified: 1 to 100, ascending. */
  quotaThresholds: number[]
  /** What becomes of an answer whose budget ends before it does. */
  budgetBehaviour: BudgetBehaviour
  /** The model that answers once `downgradeAt` percent of the month's tokens are spent; null for always the agent's own. */
  downgradeModel: string | null
  downgradeAt: number
  /** The secret that holds its own key of a model provider; null for the platform's. */
  modelKeySecret: string | null
  /** Where that provider is; null for where the platform's is. */
  modelBaseUrl: string | null
}

/** Who acts. `id` is the credential's id; `userId` is set for end users and null for the tenant's staff. */
export type Actor = { id: string; name: string; role: TenantRole; userId: string | null }

/** The versions of two rows: Postgres' `xmin`, which every change of a row replaces. */
export type RowVersions = { tenant: string; key: string }

/** Those of no row. */
export const noVersions: RowVersions = { tenant: '0', key: '0' }

/** Everything a use case may touch: one tenant, one actor, that tenant's rows and the ports. */
export type Scope = {
  tenant: TenantProfile
  actor: Actor
  db: TenantDb
  /** What all of the tenant uses, of which an end user's `db` shows a part. */
  quotaSource: QuotaSource
  ports: Ports
  settings: DomainSettings
  /** What authentication read of the tenant and of the actor's key. */
  asOf: RowVersions
  /** The actor's scope as it is now; null when the credentials are not good any more. */
  renew: () => Promise<Scope | null>
}

/** What the platform itself works with: every tenant's data, each behind its walls, and the catalogue. */
export type Platform = { data: TenantData; catalog: Catalog; ports: Ports; settings: DomainSettings }

/** What the operator decides for the whole platform. */
export type DomainSettings = {
  /** The model a new agent starts with. */
  defaultModel: string
  /** What the secrets of API keys are hashed with. */
  peppers: Peppers
  /** How long a backup is kept. Days. */
  backupRetentionDays: number
}

const ranks: Record<TenantRole, number> = { END_USER: 0, MEMBER: 1, ADMIN: 2 }

/** The first line of a use case: throws Forbidden unless the actor's role is `role` or above (ADMIN > MEMBER > END_USER). */
export function requireRole(scope: Scope, role: TenantRole): void {
  if (ranks[scope.actor.role] < ranks[role]) throw new Forbidden()
}

/** Throws Unavailable while the tenant's rows are on their way to another database: until they are there, nothing is changed. */
export function requireWritable({ tenant }: Scope): void {
  if (tenant.status === 'MOVING') throw new Unavailable('The tenant is being moved to another database. Try again shortly.', 5)
}
