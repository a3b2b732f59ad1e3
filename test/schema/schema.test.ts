import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  type GraphQLNamedType,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isIntrospectionType,
  isObjectType,
  isSpecifiedScalarType,
  isUnionType,
  printSchema,
} from 'graphql'
import { describe, expect, it } from 'vitest'
import { schema } from '../../src/schema/index.ts'

const types: GraphQLNamedType[] = Object.values(schema.getTypeMap()).filter(
  (type) => !isIntrospectionType(type) && !isSpecifiedScalarType(type),
)
const unions = types.filter(isUnionType)

describe('the schema', () => {
  it('is the one in schema.graphql: otherwise run `npm run schema`', () => {
    expect(readFileSync(join(import.meta.dirname, '../../schema.graphql'), 'utf8')).toBe(`${printSchema(schema)}\n`)
  })

  it('describes every element', () => {
    expect(elements().length).toBeGreaterThan(250)
    expect(elements().flatMap(([name, { description }]) => (description?.trim() ? [] : [name]))).toEqual([])
  })

  it('gives a field name one type in all members of a union, so that one selection fits them all', () => {
    expect(unions.length).toBeGreaterThan(8)
    const clashes = unions.flatMap((union) => {
      const seen = new Map<string, string>()
      return union.getTypes().flatMap((member) =>
        Object.values(member.getFields()).flatMap((field) => {
          const type = seen.get(field.name) ?? String(field.type)
          seen.set(field.name, type)
          return type === String(field.type) ? [] : [`${union.name}.${field.name}: ${type}, ${field.type}`]
        }),
      )
    })
    expect(clashes).toEqual([])
  })

  it('gives every event of agentReply a cursor', () => {
    const events = unions.find(({ name }) => name === 'RunEvent')?.getTypes() ?? []
    expect(events.map((event) => String(event.getFields()['cursor']?.type))).toEqual(events.map(() => 'String!'))
  })

  it('names the input, the payload and the result of each mutation after it', () => {
    const mutations = Object.values(schema.getMutationType()?.getFields() ?? {})
    expect(mutations.length).toBeGreaterThan(7)
    for (const { name, args, type } of mutations) {
      const VerbNoun = name.charAt(0).toUpperCase() + name.slice(1)
      expect(args.map((arg) => `${arg.name}: ${arg.type}`)).toEqual([`input: ${VerbNoun}Input!`])
      expect(String(type)).toBe(`${VerbNoun}Result!`)
      const members = unions.find((union) => union.name === `${VerbNoun}Result`)?.getTypes() ?? []
      expect(members.map((member) => member.name)).toEqual(
        expect.arrayContaining([`${VerbNoun}Payload`, 'ValidationProblem', 'NotFound', 'Forbidden', 'Conflict']),
      )
    }
  })

  it('is non-null but for what may be missing', () => {
    const mayBeNull = new Set([
      'title',
      'userId',
      'agent',
      'reply',
      'failure',
      'startedAt',
      'finishedAt',
      'archivedAt',
      'publishedAt',
    ])
    const nullable = types.filter(isObjectType).flatMap((type) =>
      Object.values(type.getFields())
        .filter((field) => !String(field.type).endsWith('!') && !mayBeNull.has(field.name))
        .map((field) => `${type.name}.${field.name}`),
    )
    expect(nullable.sort()).toEqual([
      'Agent.canary',
      'Agent.config',
      'AgentBranding.backgroundColor',
      'AgentBranding.greeting',
      'AgentBranding.logoUrl',
      'AgentBranding.name',
      'AgentBranding.primaryColor',
      'AgentConfig.budgetBehaviour',
      'AgentVersionStats.errorRate',
      'ApiKey.expiresAt',
      'ApiKey.revokedAt',
      'Approval.decidedAt',
      'Approval.decidedBy',
      'Approval.reason',
      'AuditEvent.actorId',
      'AuditEvent.subjectId',
      'BudgetExhausted.resetAt',
      'BudgetExhausted.retryAfterSeconds',
      'CorrectUsagePayload.correction',
      'CreateApiKeyPayload.secret',
      'CreateTenantPayload.adminKey',
      'CreateWebhookPayload.secret',
      'ErasureCertificate.backupsExpireAt',
      'HttpTool.approvalWhen',
      'McpServer.allowedTools',
      'McpServer.approvalWhen',
      'Message.run',
      'PageInfo.endCursor',
      'PageInfo.startCursor',
      'Price.validTo',
      'Query.conversation',
      'Query.node',
      'Query.run',
      'Query.tenant',
      'QuotaExceeded.resetAt',
      'QuotaExceeded.retryAfterSeconds',
      'QuotaLimit.resetAt',
      'QuotaOverride.expiresAt',
      'Run.downgradedFrom',
      'RunQuote.downgradeModel',
      'Tenant.erasure',
      'TenantPrice.cachedInputNanos',
      'TenantPrice.inputNanos',
      'TenantPrice.outputNanos',
      'TenantPrice.validTo',
      'TenantSettings.downgradeModel',
      'TenantSettings.modelBaseUrl',
      'TenantSettings.modelKeySecret',
      'Tool.http',
      'Tool.mcp',
      'UsageRow.agentId',
      'UsageRow.configVersion',
      'UsageRow.conversationId',
      'UsageRow.day',
      'UsageRow.hour',
      'UsageRow.model',
      'Viewer.tenant',
      'Webhook.description',
      'Webhook.failingSince',
    ])
  })
})

type Described = { description?: string | null | undefined }

function elements(): [string, Described][] {
  return types.flatMap((type): [string, Described][] => {
    const own: [string, Described] = [type.name, type]
    if (isEnumType(type))
      return [own, ...type.getValues().map((value): [string, Described] => [`${type.name}.${value.name}`, value])]
    if (isInputObjectType(type)) return [own, ...named(type.name, Object.values(type.getFields()))]
    if (!isObjectType(type) && !isInterfaceType(type)) return [own]
    const fields = Object.values(type.getFields())
    return [own, ...named(type.name, fields), ...fields.flatMap((field) => named(`${type.name}.${field.name}`, field.args))]
  })
}

function named(owner: string, parts: readonly ({ name: string } & Described)[]): [string, Described][] {
  return parts.map((part) => [`${owner}.${part.name}`, part])
}
