import { createTool, deleteTool, findTool, listTools, type ToolEntry, updateTool } from '../domain/tool.ts'
import type {
  HttpDefinition,
  httpMethods,
  McpDefinition,
  ResponseField as ResponseFieldShape,
  ToolHeader as ToolHeaderShape,
  ToolKind as ToolKindName,
  toolApprovals,
} from '../domain/tool-definition.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

const admin = { admin: true } as const

const ToolKind = builder.enumType('ToolKind', {
  description: 'What is behind a tool.',
  values: {
    HTTP: { description: 'One HTTP request.' },
    MCP: { description: 'A server of the Model Context Protocol, with the tools that it has.' },
  } satisfies Record<ToolKindName, object>,
})

const ToolApproval = builder.enumType('ToolApproval', {
  description: 'Whether a person has to agree before a tool is called.',
  values: {
    NEVER: { description: 'It is called at once.' },
    ALWAYS: { description: 'A person has to agree to every call.' },
    WHEN: { description: 'A person has to agree to calls whose arguments match approvalWhen.' },
  } satisfies Record<(typeof toolApprovals)[number], object>,
})

const HttpMethod = builder.enumType('HttpMethod', {
  description: 'The method of an HTTP request (RFC 9110).',
  values: {
    GET: { description: 'Arguments that the URL has no place for go into the query.' },
    POST: { description: 'Arguments that the URL has no place for are the body, as JSON.' },
    PUT: { description: 'As POST.' },
    PATCH: { description: 'As POST.' },
    DELETE: { description: 'As GET.' },
  } satisfies Record<(typeof httpMethods)[number], object>,
})

const ToolHeader = builder.objectRef<ToolHeaderShape>('ToolHeader').implement({
  description: 'A header that a tool sends. For admins.',
  authScopes: admin,
  fields: (t) => ({
    name: t.exposeString('name', { description: 'Its name.' }),
    value: t.exposeString('value', {
      description: 'Its value, where {{secret:name}} stands for a secret. Never the secret itself.',
    }),
  }),
})

const ToolHeaderInput = builder.inputType('ToolHeaderInput', {
  description: 'A header that a tool is to send.',
  fields: (t) => ({
    name: t.string({
      required: true,
      description: 'Its name. Each at most once, and none that the platform or the protocol says itself.',
    }),
    value: t.string({
      required: true,
      description:
        'Its value: visible ASCII characters, where {{secret:name}} stands for the secret of that name, as in Bearer {{secret:crm}}.',
    }),
  }),
})

const ResponseField = builder.objectRef<ResponseFieldShape>('ResponseField').implement({
  description: 'A field of what the model gets of an answer. For admins.',
  authScopes: admin,
  fields: (t) => ({
    name: t.exposeString('name', { description: 'What the model sees it as.' }),
    path: t.exposeString('path', { description: 'Where in the answer it is.' }),
  }),
})

const ResponseFieldInput = builder.inputType('ResponseFieldInput', {
  description: 'A field of what the model is to get of an answer.',
  fields: (t) => ({
    name: t.string({ required: true, description: 'What the model sees it as: letters, digits and underscores.' }),
    path: t.string({
      required: true,
      description:
        'Where in the answer it is, in JSONPath of names, indices and [*] alone, as in $.items[*].title. With [*] it is a list.',
    }),
  }),
})

const HttpTool = builder.objectRef<HttpDefinition>('HttpTool').implement({
  description: 'The HTTP request that a tool is. For admins.',
  authScopes: admin,
  fields: (t) => ({
    method: t.expose('method', { type: HttpMethod, description: 'Its method.' }),
    url: t.exposeString('url', { description: 'Where it goes, with {name} where arguments go.' }),
    parameters: t.field({
      type: 'JSONObject',
      description: 'The JSON Schema of its arguments.',
      resolve: ({ parameters }) => parameters as Record<string, unknown>,
    }),
    headers: t.expose('headers', { type: [ToolHeader], description: 'The headers that it sends.' }),
    allowedHosts: t.exposeStringList('allowedHosts', { description: 'The hosts that it may ask, also by redirects.' }),
    responseMapping: t.expose('responseMapping', {
      type: [ResponseField],
      description: 'What of the answer the model gets. Empty when it gets all of it.',
    }),
    maxBytes: t.exposeInt('maxBytes', { description: 'Bound on the bytes of an answer.' }),
    isIdempotent: t.exposeBoolean('isIdempotent', { description: 'Whether a call that may have been made can be made again.' }),
    ...outgoingFields(t),
  }),
})

const McpServer = builder.objectRef<McpDefinition>('McpServer').implement({
  description: 'The server of the Model Context Protocol that a tool is. For admins.',
  authScopes: admin,
  fields: (t) => ({
    url: t.exposeString('url', { description: 'Its endpoint for Streamable HTTP.' }),
    headers: t.expose('headers', { type: [ToolHeader], description: 'The headers that it is sent.' }),
    allowedTools: t.exposeStringList('allowedTools', {
      nullable: true,
      description: 'Which of its tools agents may have. Null for all that it has.',
    }),
    skippedTools: t.exposeStringList('skippedTools', {
      description: 'Its tools that no model can be given, since their names or what they take cannot be used.',
    }),
    listedAt: t.field({
      type: 'DateTime',
      description: 'When it was last asked for its tools.',
      resolve: ({ listedAt }) => new Date(listedAt),
    }),
    ...outgoingFields(t),
  }),
})

type Outgoing = HttpDefinition | McpDefinition

/** What tools of all kinds have that call out. */
function outgoingFields<Shape extends Outgoing>(
  t: PothosSchemaTypes.ObjectFieldBuilder<(typeof builder)['$inferSchemaTypes'], Shape>,
) {
  return {
    timeoutMs: t.int({ description: 'Bound on the time of a call, in milliseconds.', resolve: ({ timeoutMs }) => timeoutMs }),
    approval: t.field({
      type: ToolApproval,
      description: 'Whether a person has to agree before it is called.',
      resolve: ({ approval }) => approval,
    }),
    approvalWhen: t.field({
      type: 'JSONObject',
      nullable: true,
      description: 'The JSON Schema of arguments that a person has to agree to. Null unless the approval is WHEN.',
      resolve: ({ approvalWhen }) => approvalWhen as Record<string, unknown> | null,
    }),
  }
}

const ToolFunction = builder.objectRef<ToolEntry['functions'][number]>('ToolFunction').implement({
  description: 'What a model is told of a tool. For admins.',
  authScopes: admin,
  fields: (t) => ({
    name: t.exposeString('name', { description: 'What it is called by, and what enabledTools of a configuration names.' }),
    description: t.exposeString('description', { description: 'What it is for.' }),
    parameters: t.field({
      type: 'JSONObject',
      description: 'The JSON Schema of its arguments.',
      resolve: ({ parameters }) => parameters,
    }),
  }),
})

const Tool = builder.objectRef<ToolEntry>('Tool').implement({
  description: 'Something that the tenant lets its agents call, once their configuration enables it. For admins.',
  interfaces: [Node],
  authScopes: admin,
  fields: (t) => ({
    id: t.id(idField('Tool')),
    kind: t.expose('kind', { type: ToolKind, description: 'What is behind it.' }),
    name: t.exposeString('name', { description: 'What it is called by. Unique in the tenant; it never changes.' }),
    description: t.exposeString('description', { description: 'What it is for.' }),
    functions: t.expose('functions', {
      type: [ToolFunction],
      description: 'What models are told of it: one function of its name, or, of a server, one for each of its tools.',
    }),
    http: t.field({
      type: HttpTool,
      nullable: true,
      description: 'The request that it is. Null unless its kind is HTTP.',
      resolve: (tool) => (tool.kind === 'HTTP' ? tool.definition : null),
    }),
    mcp: t.field({
      type: McpServer,
      nullable: true,
      description: 'The server that it is. Null unless its kind is MCP.',
      resolve: (tool) => (tool.kind === 'MCP' ? tool.definition : null),
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
    updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When it was last changed, or asked for its tools.' }),
  }),
})

resolveNodesOf('Tool', { authScopes: admin, load: (context, uuid) => findTool(scopeOf(context), uuid) })

builder.queryField('tools', (t) =>
  t.field({
    type: [Tool],
    description: 'The tools that the tenant has defined, the oldest first; not those that come with the platform. For admins.',
    authScopes: admin,
    resolve: (_root, _args, context) => listTools(scopeOf(context)),
  }),
)

const timeoutMs = 'Bound on the time of a call, in milliseconds: 100 to 30,000. Default 15,000.'
const headers = 'The headers to send, at most 20.'
const approval = 'Whether a person has to agree before it is called. Default NEVER.'
const approvalWhen = 'With the approval WHEN: the JSON Schema of arguments that a person has to agree to.'

const HttpToolInput = builder.inputType('HttpToolInput', {
  description: 'An HTTP request that agents are to make.',
  fields: (t) => ({
    method: t.field({ type: HttpMethod, description: 'Its method. Default GET.' }),
    url: t.string({
      required: true,
      description:
        'Where it goes: https, in the public Internet. {name} in segments of the path and in values of the query stands for an argument.',
    }),
    parameters: t.field({
      type: 'JSONObject',
      description:
        'The JSON Schema (2020-12) of its arguments: an object, at most 32 KiB, with references to its own $defs alone, no cycles, and patterns of RE2. Default: no arguments.',
    }),
    headers: t.field({ type: [ToolHeaderInput], description: headers }),
    allowedHosts: t.stringList({
      description:
        'The hosts that it may ask, also by redirects: names, or *.example.com for all below. Default: that of the URL.',
    }),
    responseMapping: t.field({
      type: [ResponseFieldInput],
      description: 'What of the answer the model gets, at most 20 fields. Default: all of it.',
    }),
    timeoutMs: t.int({ description: timeoutMs }),
    maxBytes: t.int({ description: 'Bound on the bytes of an answer: 1 to 1,048,576. Default 262,144.' }),
    approval: t.field({ type: ToolApproval, description: approval }),
    approvalWhen: t.field({ type: 'JSONObject', description: approvalWhen }),
    isIdempotent: t.boolean({
      description:
        'Whether a call that may have been made can be made again: it changes nothing, or the server knows its Idempotency-Key. Default: true for GET, else false.',
    }),
  }),
})

const McpServerInput = builder.inputType('McpServerInput', {
  description: 'A server of the Model Context Protocol whose tools agents are to have.',
  fields: (t) => ({
    url: t.string({
      required: true,
      description: 'Its endpoint for Streamable HTTP: https, in the public Internet. Redirects are not followed.',
    }),
    headers: t.field({ type: [ToolHeaderInput], description: headers }),
    allowedTools: t.stringList({ description: 'Which of its tools agents may have. Default: all that it has.' }),
    timeoutMs: t.int({ description: timeoutMs }),
    approval: t.field({ type: ToolApproval, description: approval }),
    approvalWhen: t.field({ type: 'JSONObject', description: approvalWhen }),
  }),
})

mutation('createTool', {
  description:
    'Defines a tool, of which a tenant has at most 50: one HTTP request, or an MCP server, which is asked for its tools. Agents have it once their configuration enables it. For admins.',
  authScopes: admin,
  input: (t) => ({
    name: t.string({
      required: true,
      description:
        "What it is called by: a letter, then up to 63 letters, digits, hyphens and single underscores. A server's tools are called name__tool.",
    }),
    description: t.string({ required: true, description: 'What it is for. Models choose by it. At most 1,024 bytes.' }),
    http: t.field({ type: HttpToolInput, description: 'The request, for a tool that is one. Either this or mcp.' }),
    mcp: t.field({ type: McpServerInput, description: 'The server, for tools of one. Either this or http.' }),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input makes one tool.',
    }),
  }),
  resolve: (scope, input) => createTool(scope, input),
  payload: (t) => ({ tool: t.expose('tool', { type: Tool, description: 'The new tool.' }) }),
})

mutation('updateTool', {
  description: 'Changes what it names and keeps the rest. Runs under way keep the tool as it was. For admins.',
  authScopes: admin,
  input: (t) => ({
    toolId: t.id({ required: true, description: 'Which tool.' }),
    description: t.string({ description: 'What it is for. At most 1,024 bytes.' }),
    http: t.field({ type: HttpToolInput, description: 'The whole request, in the place of the one that there is.' }),
    mcp: t.field({
      type: McpServerInput,
      description: 'The whole server, in the place of the one that there is. It is asked for its tools.',
    }),
    refresh: t.boolean({ description: 'True asks an MCP server for its tools again. Default false.' }),
  }),
  resolve: (scope, { toolId, ...change }) => updateTool(scope, { ...change, toolId: decodeId('Tool', toolId) }),
  payload: (t) => ({ tool: t.expose('tool', { type: Tool, description: 'The tool as it is now.' }) }),
})

mutation('deleteTool', {
  description:
    'Deletes a tool. Agents that had it enabled go on without it, and runs under way keep it to their end. For admins.',
  authScopes: admin,
  input: (t) => ({ toolId: t.id({ required: true, description: 'Which tool.' }) }),
  resolve: (scope, { toolId }) => deleteTool(scope, { toolId: decodeId('Tool', toolId) }),
  payload: (t) => ({ tool: t.expose('tool', { type: Tool, description: 'The tool as it was.' }) }),
})
