import { Unauthenticated } from '../domain/errors.ts'
import type { TenantSettings as Settings } from '../domain/scope.ts'
import { findSettings, updateTenantSettings } from '../domain/tenant-settings.ts'
import { BudgetBehaviour } from './budget-behaviour.ts'
import { builder } from './builder.ts'
import { mutation } from './mutation.ts'
import { Tenant } from './tenant.ts'

const staffAndOperators = { member: true, operator: true } as const
const adminsAndOperators = { admin: true, operator: true } as const

const TenantSettings = builder.objectRef<Settings>('TenantSettings').implement({
  description: "What a tenant's admins decide about all of it.",
  authScopes: staffAndOperators,
  fields: (t) => ({
    timeZone: t.exposeString('timeZone', { description: 'An IANA time zone, in which its days and months begin.' }),
    quotaThresholds: t.exposeIntList('quotaThresholds', {
      description: 'At which percentages of a limit its admins are notified, ascending.',
    }),
    budgetBehaviour: t.expose('budgetBehaviour', {
      type: BudgetBehaviour,
      description: "What becomes of an answer when the month's tokens end before it does, unless its agent's configuration says.",
    }),
    downgradeModel: t.exposeString('downgradeModel', {
      nullable: true,
      description:
        "The model that answers once `downgradeAt` percent of the month's tokens are spent. Null for always the agent's own.",
    }),
    downgradeAt: t.exposeInt('downgradeAt', {
      description: "From which percentage of the month's tokens on the downgrade model answers.",
    }),
    modelKeySecret: t.exposeString('modelKeySecret', {
      nullable: true,
      authScopes: adminsAndOperators,
      description:
        "The name of the secret that holds the tenant's own key of a model provider. Null when its agents' models are called with the platform's. For admins and operators.",
    }),
    modelBaseUrl: t.exposeString('modelBaseUrl', {
      nullable: true,
      authScopes: adminsAndOperators,
      description:
        "Where the tenant's own model provider is, up to and including its version. Null for where the platform's is. For admins and operators.",
    }),
  }),
})

builder.objectField(Tenant, 'settings', (t) =>
  t.field({
    type: TenantSettings,
    description: 'What its admins decided about all of it. Not for end users.',
    authScopes: staffAndOperators,
    resolve: (tenant, _args, { principal }) => {
      if (!principal) throw new Unauthenticated()
      return findSettings(principal, tenant)
    },
  }),
)

mutation('updateTenantSettings', {
  description:
    'Changes settings of your tenant. What is left out stays as it is. Another time zone moves its days and months, for messages and tokens that were counted before, too. For admins.',
  authScopes: { admin: true },
  input: (t) => ({
    timeZone: t.string({ description: 'An IANA time zone, as in Europe/Berlin.' }),
    quotaThresholds: t.intList({ description: 'Percentages from 1 to 100, ascending, at most 10. None: nobody is notified.' }),
    budgetBehaviour: t.field({
      type: BudgetBehaviour,
      description: "What becomes of an answer when the month's tokens end before it does.",
    }),
    downgradeModel: t.string({ description: "A model that agents could have. Null: always the agent's own." }),
    downgradeAt: t.int({ description: 'A percentage from 1 to 100.' }),
    modelKeySecret: t.string({
      description:
        "The name of a secret with a key of your own, which your agents' models are then called with. Null: the platform's key, at its provider.",
    }),
    modelBaseUrl: t.string({
      description:
        "Where the provider of your own key is: an OpenAI-compatible endpoint by https, up to and including its version, as in https://api.example.com/v1. Null: where the platform's is.",
    }),
  }),
  resolve: (scope, input) => updateTenantSettings(scope, input),
  payload: (t) => ({ tenant: t.expose('tenant', { type: Tenant, description: 'The tenant, with its settings.' }) }),
})
