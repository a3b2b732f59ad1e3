// @module-tag rule-16
import SchemaBuilder from '@pothos/core'
import ScopeAuthPlugin from '@pothos/plugin-scope-auth'
import { type GraphQLObjectType, isObjectType } from 'graphql'
import { describe, expect, it } from 'vitest'
import { declaredAccess } from '../../src/schema/declared-access.ts'
import { schema } from '../../src/schema/index.ts'

type Access = { endUser?: boolean; member?: boolean; admin?: boolean; operator?: boolean }

function openBuilder() {
  const builder = new SchemaBuilder<{ AuthScopes: { admin: boolean } }>({
    plugins: [declaredAccess, ScopeAuthPlugin],
    scopeAuth: { authScopes: () => ({ admin: true }) },
  })
  builder.queryType({ fields: (t) => ({ ok: t.string({ authScopes: { admin: true }, resolve: () => 'ok' }) }) })
  return builder
}

describe('building a schema', () => {
  it('succeeds when everything says who may use it', () => {
    const builder = openBuilder()
    const Thing = builder.objectRef<object>('Thing').implement({
      authScopes: { admin: true },
      fields: (t) => ({ name: t.string({ resolve: () => 'thing' }) }),
    })
    builder.queryField('thing', (t) => t.field({ type: Thing, authScopes: { admin: true }, resolve: () => ({}) }))
    expect(builder.toSchema().getType('Thing')).toBeDefined()
  })

  it('fails on a root field that does not', () => {
    const builder = openBuilder()
    builder.queryField('secret', (t) => t.string({ resolve: () => 'secret' }))
    expect(() => builder.toSchema()).toThrow('Query.secret does not declare who may use it')
  })

  it('fails on a mutation whose declaration allows nobody in particular', () => {
    const builder = openBuilder()
    builder.mutationType({ fields: (t) => ({ destroy: t.boolean({ authScopes: {}, resolve: () => true }) }) })
    expect(() => builder.toSchema()).toThrow('Mutation.destroy does not declare who may use it')
  })

  it('fails on an object type that does not', () => {
    const builder = openBuilder()
    builder.objectRef<object>('Secret').implement({ fields: (t) => ({ name: t.string({ resolve: () => 'secret' }) }) })
    expect(() => builder.toSchema()).toThrow('Secret does not declare who may use it')
  })
})

const roots = [schema.getQueryType(), schema.getMutationType(), schema.getSubscriptionType()] as GraphQLObjectType[]

/** Root fields whose declaration lets `role` in. */
function rootFieldsOf(role: keyof Access): string[] {
  const fields = roots.flatMap((root) => Object.values(root.getFields()))
  return fields.flatMap((field) => (accessOf(field.extensions)[role] ? [field.name] : [])).sort()
}

function accessOf(extensions: Readonly<Record<string, unknown>>): Access {
  return (extensions['pothosOptions'] as { authScopes?: Access } | undefined)?.authScopes ?? {}
}

describe('who may use what', () => {
  it('lets end users do what their role lists, and nothing else', () => {
    expect(rootFieldsOf('endUser')).toEqual([
      'agentReply',
      'cancelRun',
      'conversation',
      'conversations',
      'createConversation',
      'deleteConversation',
      'node',
      'renameConversation',
      'run',
      'runs',
      'sendMessage',
      'viewer',
    ])
  })

  it('lets operators see tenants and no content', () => {
    expect(rootFieldsOf('operator')).toEqual([
      'changePlan',
      'clearQuotaOverride',
      'correctUsage',
      'createTenant',
      'eraseTenant',
      'grantCredit',
      'invoice',
      'node',
      'prices',
      'quota',
      'resumeTenant',
      'setPrice',
      'setQuotaOverride',
      'setTenantPrice',
      'simulatePlan',
      'suspendTenant',
      'tenant',
      'tenantPrices',
      'tenants',
      'usage',
      'viewer',
    ])
    const content = Object.values(schema.getTypeMap())
      .filter(isObjectType)
      .filter((type) => accessOf(type.extensions).operator)
      // Pages are open to all; what is on them is not.
      .filter(({ name }) => !/Connection$|Edge$|^PageInfo$/.test(name))
    expect(content.map((type) => type.name).sort()).toEqual([
      'BudgetExhausted',
      'ChangePlanPayload',
      'ClearQuotaOverridePayload',
      'Conflict',
      'CorrectUsagePayload',
      'CreateTenantPayload',
      'Credit',
      'EraseTenantPayload',
      'ErasureCertificate',
      'ErasureCount',
      'Forbidden',
      'GrantCreditPayload',
      'Invoice',
      'InvoiceLine',
      'Money',
      'NotFound',
      'PlanSimulation',
      'Price',
      'QuotaExceeded',
      'QuotaLimit',
      'QuotaOverride',
      'QuotaStatus',
      'ResumeTenantPayload',
      'SetPricePayload',
      'SetQuotaOverridePayload',
      'SetTenantPricePayload',
      'SimulatedRefusals',
      'SuspendTenantPayload',
      'Tenant',
      'TenantPrice',
      'TenantSettings',
      'UsageCorrection',
      'UsageReport',
      'UsageRow',
      'UsageTotal',
      'ValidationProblem',
      'Viewer',
    ])
  })

  it('keeps configuration from end users and keys to admins', () => {
    const allows = (type: string, role: keyof Access) => Boolean(accessOf(schema.getType(type)?.extensions ?? {})[role])
    expect([allows('AgentConfig', 'endUser'), allows('AgentConfig', 'member')]).toEqual([false, true])
    expect([allows('ApiKey', 'endUser'), allows('ApiKey', 'member'), allows('ApiKey', 'admin')]).toEqual([false, false, true])
    expect(rootFieldsOf('admin')).toEqual([
      'apiKeys',
      'archiveAgent',
      'auditEvents',
      'createAgent',
      'createApiKey',
      'createTool',
      'createWebhook',
      'deleteSecret',
      'deleteTool',
      'deleteWebhook',
      'exportTenant',
      'invoice',
      'notificationReceived',
      'notifications',
      'publishAgentConfig',
      'renameAgent',
      'revokeApiKey',
      'rollbackAgentConfig',
      'secrets',
      'setDefaultAgent',
      'setSecret',
      'tools',
      'updateAgentConfig',
      'updateTenantSettings',
      'updateTool',
      'webhooks',
    ])
  })
})
