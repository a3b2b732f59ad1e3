import { isEnumType, isInputObjectType, isNonNullType } from 'graphql'
import { newId } from '../../src/domain/ids.ts'
import { formatCursor } from '../../src/domain/page.ts'
import { encodeId, type NodeType } from '../../src/schema/global-id.ts'
import { type ArgumentPlace, type Operation, typesWithId, withValue } from './operations.ts'
import { type Party, rowOf, spareAgent } from './rows.ts'

/** What an argument names: a thing of one of these types by its id, or rows by what their column holds. */
export type Reference = { by: 'id'; types: readonly string[] } | { by: 'text'; model: string; column: string }

type Example = unknown | ((own: Party) => unknown)

/** Under this key the other tenant has called every mutation before, as the same actor. */
export const idempotencyKey = 'the-same-key'

/** The types that an id is of where its name does not say, by the argument's coordinate. */
const typesOfIds: Readonly<Record<string, readonly string[]>> = {
  'Query.node(id:)': typesWithId,
  'CreateAgentInput.handoffAgentIds': ['Agent'],
  'UpdateAgentConfigInput.handoffAgentIds': ['Agent'],
  // The API shows rows of the ledger as sums alone; exports name each.
  'CorrectUsageInput.usageRecordId': ['UsageRecord'],
}

/** Arguments that name rows by a text of theirs. */
const texts: Readonly<Record<string, [model: string, column: string]>> = {
  'ConversationFilter.userId': ['Conversation', 'userId'],
}

/** What makes a valid call where the argument's type does not say, by coordinate; of a list, its one item. Undefined leaves it out. */
const examples: Readonly<Record<string, Example>> = {
  'RunFilter.status': undefined,
  'CreateApiKeyInput.role': 'END_USER',
  'CreateConversationInput.userId': (own: Party) => rowOf(own, 'Conversation')['userId'],
  'AuditFilter.action': 'createApiKey',
  'AuditFilter.since': undefined,
  'ApproveToolCallInput.argumentsHash': (own: Party) => rowOf(own, 'ToolCall')['argumentsHash'],
  'RejectToolCallInput.argumentsHash': (own: Party) => rowOf(own, 'ToolCall')['argumentsHash'],
  'SetSecretInput.name': (own: Party) => rowOf(own, 'Secret')['name'],
  'CreateToolInput.name': () => `tool-${newId()}`,
  // Tools of HTTP servers alone: these are not asked when they are defined.
  'HttpToolInput.url': 'https://api.example.com/orders',
  'HttpToolInput.parameters': { type: 'object' },
  'HttpToolInput.allowedHosts': 'api.example.com',
  'HttpToolInput.approval': 'NEVER',
  'HttpToolInput.approvalWhen': undefined,
  'HttpToolInput.timeoutMs': 1_000,
  'ResponseFieldInput.name': undefined,
  'ResponseFieldInput.path': undefined,
  'ToolHeaderInput.name': undefined,
  'ToolHeaderInput.value': undefined,
  'McpServerInput.url': undefined,
  'McpServerInput.allowedTools': undefined,
  'McpServerInput.timeoutMs': undefined,
  'McpServerInput.approval': undefined,
  'McpServerInput.approvalWhen': undefined,
  'UpdateToolInput.refresh': undefined,
  'CreateWebhookInput.url': 'https://hooks.example.com/bulkhead',
  // From before there was anything, so that there is something to receive.
  'Subscription.notificationReceived(after:)': formatCursor({ createdAt: new Date(0), id: newId() }),
  'CreateTenantInput.adminEmail': 'ada@example.com',
  'CreateTenantInput.name': () => `Tenant ${newId()}`,
  'EraseTenantInput.confirmName': (own: Party) => rowOf(own, 'Tenant')['name'],
  'DateRange.from': '2025-12-01T00:00:00Z',
  'DateRange.to': '2026-03-01T00:00:00Z',
  'Query.invoice(month:)': '2026-01',
  'SetPriceInput.model': 'own-model',
  'SetPriceInput.validTo': undefined,
  'SetTenantPriceInput.model': 'own-model',
  'SetTenantPriceInput.validTo': undefined,
  'UpdateAgentConfigInput.enabledTools': 'current_time',
  // The default one cannot be archived.
  'ArchiveAgentInput.agentId': (own: Party) => encodeId('Agent', String(spareAgent(own).Agent['id'])),
  'PublishAgentConfigInput.canaryPercent': 100,
  // An agent cannot hand over to itself.
  'UpdateAgentConfigInput.handoffAgentIds': undefined,
  'CreateAgentInput.enabledTools': 'current_time',
  'CreateAgentInput.slug': () => `agent-${newId()}`.slice(0, 50),
  'AgentBrandingInput.primaryColor': '#0a7f5c',
  'AgentBrandingInput.backgroundColor': '#ffffff',
  'AgentBrandingInput.logoUrl': 'https://cdn.example.com/logo.svg',
  'UpdateTenantSettingsInput.timeZone': 'Europe/Berlin',
  'UpdateTenantSettingsInput.downgradeModel': 'gpt-4o-mini',
  'UpdateTenantSettingsInput.modelKeySecret': (own: Party) => rowOf(own, 'Secret')['name'],
  'UpdateTenantSettingsInput.modelBaseUrl': 'https://models.example.com/v1',
}

/** The same, for every argument of the name. */
const examplesByName: Readonly<Record<string, Example>> = {
  idempotencyKey,
  first: 50,
  after: undefined,
  last: undefined,
  before: undefined,
}

const examplesByType: Readonly<Record<string, unknown>> = {
  String: 'own-text',
  Int: 1,
  Float: 1,
  Boolean: true,
  BigInt: 1,
  DateTime: '2100-01-01T00:00:00Z',
  JSONObject: { own: 'own-text' },
}

/** Every argument that the tables above tell of by its coordinate. */
export const describedArguments: readonly string[] = [typesOfIds, texts, examples].flatMap(Object.keys)

/** What the argument names; null when it names nothing. Throws when it is an id and nobody knows of what. */
export function referenceOf({ coordinate, name, type }: ArgumentPlace): Reference | null {
  const text = texts[coordinate]
  if (text) return { by: 'text', model: text[0], column: text[1] }
  if (type.name !== 'ID') return null
  const types = typesOfIds[coordinate] ?? typesCalled(nameOfType(coordinate, name))
  if (types.length > 0) return { by: 'id', types }
  throw new Error(`Nobody knows what ${coordinate} is the id of: say it in typesOfIds in test/isolation/arguments.ts.`)
}

/** Variables with which `own` makes a valid call, all that they name its own: every argument, or those alone that a call needs. */
export function validVariables({ field, places }: Operation, own: Party, which: 'every' | 'needed'): Record<string, unknown> {
  // An input is needed also where none of its fields is.
  const inputs = field.args
    .filter(({ type }) => isNonNullType(type) && isInputObjectType(type.ofType))
    .map(({ name }) => [name, {}])
  return places.reduce<Record<string, unknown>>((variables, place) => {
    const value = which === 'every' || place.required ? exampleOf(place, own) : undefined
    return value === undefined ? variables : withValue(variables, place, value)
  }, Object.fromEntries(inputs))
}

/** The types that things are of which are rows of a model by another name. */
const modelsOfTypes: Readonly<Record<string, string>> = { Approval: 'ToolCall' }

/** The model of whose rows things of this type are. */
export function modelOf(type: string): string {
  return modelsOfTypes[type] ?? type
}

/** The global id of the party's thing of this type. */
export function idOf(party: Party, type: string): string {
  return encodeId(type as NodeType, String(rowOf(party, modelOf(type))['id']))
}

function exampleOf(place: ArgumentPlace, own: Party): unknown {
  const { coordinate, name, type } = place
  const known = [examples, examplesByName].find((table) => coordinate in table || name in table)
  if (known) return evaluate(coordinate in known ? known[coordinate] : known[name], own)
  const reference = referenceOf(place)
  if (reference?.by === 'id') return idOf(own, reference.types[0] ?? '')
  if (reference?.by === 'text') return rowOf(own, reference.model)[reference.column]
  if (isEnumType(type)) return type.getValues()[0]?.name
  if (type.name in examplesByType) return examplesByType[type.name]
  throw new Error(`There is no example of ${coordinate}: add one to examples in test/isolation/arguments.ts.`)
}

function evaluate(example: Example, own: Party): unknown {
  return typeof example === 'function' ? example(own) : example
}

/** As `conversationId` is of a Conversation, and the `id` of the query `run` of a Run. */
function nameOfType(coordinate: string, name: string): string {
  if (name === 'id') return coordinate.replace(/^\w+\.(\w+)\(.*$/, '$1')
  return name.replace(/Ids?$/, '')
}

function typesCalled(name: string): string[] {
  return typesWithId.filter((type) => type.toLowerCase() === name.toLowerCase())
}
