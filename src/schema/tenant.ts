import type { Plan, TenantStatus } from '../data/generated/enums.ts'
import { findErasure } from '../domain/erasure.ts'
import { Unauthenticated } from '../domain/errors.ts'
import type { TenantProfile } from '../domain/scope.ts'
import { createTenant, findTenant, listTenants } from '../domain/tenant.ts'
import { builder } from './builder.ts'
import { connectionOf, pageArgs } from './connection.ts'
import { type Context, operatorOf } from './context.ts'
import { ErasureCertificate } from './erasure.ts'
import { decodeId } from './global-id.ts'
import { operatorMutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

export const PlanName = builder.enumType('Plan', {
  description: 'What a tenant has subscribed to. Decides its limits.',
  values: {
    FREE: { description: 'To try things out.' },
    PRO: { description: 'For production.' },
    ENTERPRISE: { description: 'For production at scale.' },
  } satisfies Record<Plan, { description: string }>,
})

const Status = builder.enumType('TenantStatus', {
  description: 'Whether a tenant is served.',
  values: {
    ACTIVE: { description: 'Served.' },
    SUSPENDED: { description: 'Its credentials are refused and nothing runs; its data stays.' },
    MOVING: { description: 'Being moved to another database.' },
    ERASED: { description: 'Its data is gone.' },
  } satisfies Record<TenantStatus, { description: string }>,
})

export const Tenant = builder.objectRef<TenantProfile>('Tenant')

Tenant.implement({
  description: 'A customer of the platform. Sees its own rows only.',
  interfaces: [Node],
  authScopes: { endUser: true, operator: true },
  fields: (t) => ({
    id: t.id(idField('Tenant')),
    name: t.exposeString('name', { description: 'Unique on the platform.' }),
    plan: t.expose('plan', { type: PlanName, description: 'What it has subscribed to.' }),
    status: t.expose('status', { type: Status, description: 'Whether it is served.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it became a customer.' }),
    erasure: t.field({
      type: ErasureCertificate,
      nullable: true,
      description: 'The certificate of its erasure. Null unless that was asked for. For operators.',
      authScopes: { operator: true },
      resolve: ({ id }, _args, context) => findErasure(operatorOf(context), id),
    }),
  }),
})

const staffAndOperators = { member: true, operator: true } as const

function read(context: Context, uuid?: string): Promise<TenantProfile | null> {
  if (!context.principal) throw new Unauthenticated()
  return findTenant(context.principal, uuid)
}

resolveNodesOf('Tenant', { authScopes: staffAndOperators, load: read })

builder.queryField('tenant', (t) =>
  t.field({
    type: Tenant,
    nullable: true,
    description:
      'Your own tenant; for operators, any. Null when there is no such tenant, and for operators who name none. Not for end users.',
    authScopes: staffAndOperators,
    args: { id: t.arg.id({ description: 'Whose. Default: your own.' }) },
    resolve: (_root, { id }, context) => read(context, id == null ? undefined : decodeId('Tenant', id)),
  }),
)

const TenantConnection = connectionOf(Tenant, 'tenants')

const TenantFilter = builder.inputType('TenantFilter', {
  description: 'Which tenants. Everything that is named must hold.',
  fields: (t) => ({
    status: t.field({ type: Status, description: 'Only those that stand here.' }),
    plan: t.field({ type: PlanName, description: 'Only those with this plan.' }),
    namePrefix: t.string({ description: 'Only those whose name begins with this, in the same letter case.' }),
  }),
})

builder.queryField('tenants', (t) =>
  t.field({
    type: TenantConnection,
    description: 'All tenants, newest first. For operators.',
    authScopes: { operator: true },
    args: { ...pageArgs(t.arg), filter: t.arg({ type: TenantFilter, description: 'Which ones. Default: all.' }) },
    resolve: (_root, { filter, ...page }, context) => listTenants(operatorOf(context), page, filter ?? {}),
  }),
)

operatorMutation('createTenant', {
  description:
    "Registers a customer, with an agent that answers and its first admin's key: keep it, it is in the answer and nowhere else. Repeating a call that was cut off completes it. For operators.",
  input: (t) => ({
    name: t.string({ required: true, description: 'Unique on the platform.' }),
    plan: t.field({ type: PlanName, required: true, description: 'What it has subscribed to.' }),
    adminEmail: t.string({
      description: 'Address of the first admin, who becomes a member of its staff. Default: there is only the key.',
    }),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input makes no second one.',
    }),
  }),
  resolve: (operator, input) => createTenant(operator, input),
  payload: (t) => ({
    tenant: t.expose('tenant', { type: Tenant, description: 'The new customer.' }),
    adminKey: t.exposeString('adminKey', {
      nullable: true,
      description: 'What its admin sends as Bearer. Null when an idempotency key repeats an earlier call: it is shown once.',
    }),
  }),
})
