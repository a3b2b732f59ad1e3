import { Unauthenticated } from '../domain/errors.ts'
import { findQuota, followQuota, type LimitStatus, type QuotaStatus as Status } from '../domain/quota.ts'
import { changePlan, clearQuotaOverride, type QuotaOverride as Override, setQuotaOverride } from '../domain/quota-override.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { operatorMutation } from './mutation.ts'
import { LimitName } from './quota-limit.ts'
import { PlanName, Tenant } from './tenant.ts'

const staffAndOperators = { member: true, operator: true } as const

const QuotaLimit = builder.objectRef<LimitStatus>('QuotaLimit').implement({
  description: 'A limit, and what is used of it.',
  authScopes: staffAndOperators,
  fields: (t) => ({
    limit: t.expose('limit', { type: LimitName, description: 'Which limit.' }),
    max: t.field({ type: 'BigInt', description: 'The most there may be.', resolve: ({ max }) => BigInt(max) }),
    used: t.field({ type: 'BigInt', description: 'What counts against it now.', resolve: ({ used }) => BigInt(used) }),
    reserved: t.field({
      type: 'BigInt',
      description: 'What is held for answers under way. What they do not use is given back.',
      resolve: ({ reserved }) => BigInt(reserved),
    }),
    remaining: t.field({
      type: 'BigInt',
      description: 'What is left: neither used nor held.',
      resolve: ({ remaining }) => BigInt(remaining),
    }),
    resetAt: t.field({
      type: 'DateTime',
      nullable: true,
      description: 'When more of it is left though nothing happens. Null when nothing is used, or time changes nothing.',
      resolve: ({ resetAt }) => (resetAt === null ? null : new Date(resetAt)),
    }),
  }),
})

const QuotaStatus = builder.objectRef<Status>('QuotaStatus').implement({
  description: 'What a tenant may use, has used, and what is left.',
  authScopes: staffAndOperators,
  fields: (t) => ({
    plan: t.expose('plan', { type: PlanName, description: 'What it has subscribed to.' }),
    limits: t.expose('limits', { type: [QuotaLimit], description: 'Every limit, always in the same order.' }),
  }),
})

builder.queryField('quota', (t) =>
  t.field({
    type: QuotaStatus,
    description:
      "What your tenant may use and has used; for operators, any tenant's. NOT_FOUND when there is no such tenant. Not for end users.",
    authScopes: staffAndOperators,
    args: { tenantId: t.arg.id({ description: 'Whose. Default: your own. Operators have to say.' }) },
    resolve: (_root, { tenantId }, { principal }) => {
      if (!principal) throw new Unauthenticated()
      return findQuota(principal, tenantId == null ? null : decodeId('Tenant', tenantId))
    },
  }),
)

builder.subscriptionField('quotaChanged', (t) =>
  t.field({
    type: QuotaStatus,
    description:
      'What your tenant may use and has used: now, and each time it changes, a few times a second at most. Not for end users.',
    authScopes: { member: true },
    subscribe: (_root, _args, context) => followQuota(scopeOf(context), context.signal),
    resolve: (status) => status,
  }),
)

const QuotaOverride = builder.objectRef<Override>('QuotaOverride').implement({
  description: "A limit that an operator set for one tenant in the place of its plan's. For operators.",
  authScopes: { operator: true },
  fields: (t) => ({
    limit: t.expose('limit', { type: LimitName, description: 'Which limit.' }),
    max: t.expose('max', { type: 'BigInt', description: 'What it is.' }),
    reason: t.exposeString('reason', { description: 'Why.' }),
    expiresAt: t.expose('expiresAt', {
      type: 'DateTime',
      nullable: true,
      description: "From when on the plan's limit holds again. Null for never.",
    }),
  }),
})

const whichTenant = { required: true, description: 'Which tenant.' } as const
const whichLimit = { type: LimitName, required: true, description: 'Which limit.' } as const
const why = "Why. It is in the tenant's audit log, for its admins to read."

operatorMutation('changePlan', {
  description:
    'Gives a tenant another plan. Its limits hold everywhere when this answers; overrides stay. A plan that it has already changes nothing. For operators.',
  input: (t) => ({
    tenantId: t.id(whichTenant),
    plan: t.field({ type: PlanName, required: true, description: 'Which plan.' }),
    reason: t.string({ description: `${why} Default: none is given.` }),
  }),
  resolve: (operator, { tenantId, ...input }) => changePlan(operator, { ...input, tenantId: decodeId('Tenant', tenantId) }),
  payload: (t) => ({ tenant: t.expose('tenant', { type: Tenant, description: 'The tenant, with its plan.' }) }),
})

operatorMutation('setQuotaOverride', {
  description:
    "Sets a limit of one tenant, above or below its plan's. It holds everywhere when this answers. Setting it again changes it. For operators.",
  input: (t) => ({
    tenantId: t.id(whichTenant),
    limit: t.field(whichLimit),
    max: t.field({
      type: 'BigInt',
      required: true,
      description:
        'What it shall be: from 1, which is as good as nothing, to a million, a billion messages a day, or a trillion tokens a month.',
    }),
    expiresAt: t.field({ type: 'DateTime', description: "From when on the plan's limit holds again. Default: never." }),
    reason: t.string({ required: true, description: why }),
  }),
  resolve: (operator, { tenantId, ...input }) => setQuotaOverride(operator, { ...input, tenantId: decodeId('Tenant', tenantId) }),
  payload: (t) => ({
    tenant: t.expose('tenant', { type: Tenant, description: 'The tenant.' }),
    override: t.expose('override', { type: QuotaOverride, description: 'What holds now.' }),
  }),
})

operatorMutation('clearQuotaOverride', {
  description:
    "Lets the plan's limit hold again for a tenant, everywhere when this answers. Changes nothing when it does. For operators.",
  input: (t) => ({
    tenantId: t.id(whichTenant),
    limit: t.field(whichLimit),
    reason: t.string({ required: true, description: why }),
  }),
  resolve: (operator, { tenantId, ...input }) =>
    clearQuotaOverride(operator, { ...input, tenantId: decodeId('Tenant', tenantId) }),
  payload: (t) => ({ tenant: t.expose('tenant', { type: Tenant, description: 'The tenant.' }) }),
})
