import type { Prisma, Tool } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { recordAudit } from './audit.ts'
import { Conflict, NotFound, ValidationProblem } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import type { ToolDefinition } from './ports.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText, type JsonObject } from './text.ts'
import type { HttpDefinition, McpDefinition, ToolInputs, ToolKind } from './tool-definition.ts'
import { secretsOf, toolsOf } from './toolset.ts'

/** A tool that the tenant has defined, and what the model gets of it: one function, or those of a server. */
export type ToolEntry = Pick<Tool, 'id' | 'name' | 'description' | 'createdAt' | 'updatedAt'> & {
  functions: ToolDefinition[]
} & ({ kind: 'HTTP'; definition: HttpDefinition } | { kind: 'MCP'; definition: McpDefinition })

/** The definition of one kind. */
type ToolDefinitionInput = { [Kind in ToolKind as Lowercase<Kind>]?: ToolInputs[Kind] | null }

export type CreateToolInput = ToolDefinitionInput & { name: string; description: string; idempotencyKey?: string | null }

/** What is to change; absent and null leave it as it is. A definition is replaced as a whole. */
export type UpdateToolInput = ToolDefinitionInput & {
  toolId: string
  description?: string | null
  /** Whether a server is asked for its tools again. Default false. */
  refresh?: boolean | null
}

/** Tools and servers of a tenant. */
const most = 50

const longestName = 64
const longestDescription = 1_024

/** No two underscores in a row and none at the end: they stand between the name of a server and of one of its tools. */
const namePattern = /^[A-Za-z](?:_?[A-Za-z0-9-])*$/

/** What the platform's own tools begin with. */
const reservedPrefix = /^hand_over_to_/i

/**
 * Defines a tool, or a server with tools. Agents have it once their configuration enables it. Throws a ValidationProblem that names the
 * field, a Conflict when the name is taken or the tenant has 50 tools. A server is asked for its tools. For admins.
 */
export async function createTool(scope: Scope, { idempotencyKey, ...input }: CreateToolInput): Promise<{ tool: ToolEntry }> {
  requireRole(scope, 'ADMIN')
  const name = await checkName(scope, input.name)
  const description = checkDescription(input.description)
  return idempotent(
    scope,
    { mutation: 'createTool', key: idempotencyKey, input },
    {
      perform: async (remember) => {
        const { kind, definition } = await define(scope, name, input)
        return scope.db.$transaction(async (tx) => {
          const now = new Date(scope.ports.now())
          const tool = {
            id: newId(),
            kind,
            name,
            description,
            definition: definition as unknown as JsonObject,
            createdAt: now,
            updatedAt: now,
          }
          await remember(tx, tool.id)
          await checkRoom(scope, tx, name)
          await tx.tool.createMany({ data: { ...tool, tenantId: scope.tenant.id } })
          // A URL or a header may hold a token of the server's.
          const details = { name, kind, origin: originOf(definition) }
          await recordAudit(scope, tx, { action: 'createTool', subject: 'Tool', subjectId: tool.id, details })
          return { tool: entryOf(scope, { ...tool, definition }) }
        })
      },
      replay: async (id) => ({ tool: await readTool(scope, id) }),
    },
  )
}

/**
 * Changes a tool: runs that begin later have the changed one. Its name and kind stay. Throws NotFound and a ValidationProblem. For admins.
 */
export async function updateTool(scope: Scope, { toolId, ...change }: UpdateToolInput): Promise<{ tool: ToolEntry }> {
  const tool = await readTool(scope, toolId)
  const { refresh } = change
  if (tool.kind !== 'HTTP' && change.http != null) throw new ValidationProblem(['http'], 'The tool is of another kind.')
  if (tool.kind !== 'MCP' && change.mcp != null) throw new ValidationProblem(['mcp'], 'The tool is of another kind.')
  if (tool.kind !== 'MCP' && refresh) throw new ValidationProblem(['refresh'], 'Only a server can be asked for its tools.')
  const description = change.description == null ? null : checkDescription(change.description)
  const again = tool.kind === 'MCP' && refresh ? { mcp: change.mcp ?? tool.definition } : change
  const isRedefined = again.http != null || again.mcp != null
  const { definition } = isRedefined ? await define(scope, tool.name, again) : tool
  const set = {
    ...(description !== null && { description }),
    ...(isRedefined && { definition: definition as unknown as JsonObject }),
  }
  const updatedAt = new Date(scope.ports.now())
  return scope.db.$transaction(async (tx) => {
    const { count } = await tx.tool.updateMany({ where: { id: toolId }, data: { ...set, updatedAt } })
    if (count === 0) throw new NotFound('tool')
    const details = { name: tool.name, fields: Object.keys(set).sort(), origin: originOf(definition) }
    await recordAudit(scope, tx, { action: 'updateTool', subject: 'Tool', subjectId: toolId, details })
    const { id, kind, name, createdAt } = tool
    return {
      tool: entryOf(scope, { id, kind, name, createdAt, updatedAt, definition, description: description ?? tool.description }),
    }
  })
}

/** Deletes a tool. Agents that had it enabled go on without it; runs under way keep it to their end. For admins. */
export async function deleteTool(scope: Scope, { toolId }: { toolId: string }): Promise<{ tool: ToolEntry }> {
  const tool = await readTool(scope, toolId)
  return scope.db.$transaction(async (tx) => {
    const { count } = await tx.tool.deleteMany({ where: { id: toolId } })
    if (count === 0) throw new NotFound('tool')
    const details = { name: tool.name, kind: tool.kind }
    await recordAudit(scope, tx, { action: 'deleteTool', subject: 'Tool', subjectId: toolId, details })
    return { tool }
  })
}

/** All that the tenant has defined, the oldest first. For admins. */
export async function listTools(scope: Scope): Promise<ToolEntry[]> {
  requireRole(scope, 'ADMIN')
  const tools = await scope.db.tool.findMany({ orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] })
  return tools.map((tool) => entryOf(scope, tool))
}

/** Null when there is no such tool. For admins. */
export async function findTool(scope: Scope, id: string): Promise<ToolEntry | null> {
  requireRole(scope, 'ADMIN')
  const tool = isUuid(id) ? await scope.db.tool.findFirst({ where: { id } }) : null
  return tool && entryOf(scope, tool)
}

async function readTool(scope: Scope, id: string): Promise<ToolEntry> {
  const tool = await findTool(scope, id)
  if (!tool) throw new NotFound('tool')
  return tool
}

type ToolRow = Omit<Tool, 'tenantId' | 'definition'> & { definition: unknown }

/** The database holds no definitions but those that were checked. */
function entryOf(scope: Scope, row: ToolRow): ToolEntry {
  const reveal = secretsOf(scope.ports, scope.db, scope.tenant.id)
  const tools = toolsOf(scope.ports, { ...row, definition: row.definition as Prisma.JsonValue }, reveal)
  const functions = tools.map(({ name, description, parameters }) => ({ name, description, parameters }))
  const { id, kind, name, description, definition, createdAt, updatedAt } = row
  return { id, kind, name, description, definition, createdAt, updatedAt, functions } as ToolEntry
}

/** Whichever kind the input defines. May ask a server, so never in a transaction. */
async function define(scope: Scope, name: string, { http, mcp }: ToolDefinitionInput) {
  const { kinds } = scope.ports.tools
  const reveal = secretsOf(scope.ports, scope.db, scope.tenant.id)
  if (http != null && mcp == null) return { kind: 'HTTP', definition: await kinds.HTTP.define(name, http, reveal) } as const
  if (mcp != null && http == null) return { kind: 'MCP', definition: await kinds.MCP.define(name, mcp, reveal) } as const
  throw new ValidationProblem(['http'], 'Define one kind of tool: http or mcp.')
}

async function checkName({ ports, tenant }: Scope, name: string): Promise<string> {
  if (name.length > longestName || !namePattern.test(name)) {
    throw new ValidationProblem(
      ['name'],
      'The name must begin with a letter and have at most 64 letters, digits, hyphens and single underscores, none at the end.',
    )
  }
  const builtin = await ports.tools.available(tenant.id)
  if (reservedPrefix.test(name) || builtin.some((tool) => tool.name === name))
    throw new ValidationProblem(['name'], "The name is one of the platform's own tools.")
  return name
}

function checkDescription(description: string): string {
  return cleanText('description', description, { max: longestDescription, multiline: true })
}

async function checkRoom({ tenant }: Scope, tx: TenantTransaction, name: string): Promise<void> {
  // One after the other, so that two do not both find the last place, or the same name.
  await tx.$queryRaw`select from tenants where id = ${tenant.id}::uuid for no key update`
  if (await tx.tool.findFirst({ where: { name }, select: { id: true } }))
    throw new Conflict('There is a tool of this name already.')
  if ((await tx.tool.count()) >= most) throw new Conflict(`There are ${most} tools already. Delete one first.`)
}

function originOf({ url }: HttpDefinition | McpDefinition): string {
  return new URL(url.replace(/\{[^{}]*\}/g, 'x')).origin
}
