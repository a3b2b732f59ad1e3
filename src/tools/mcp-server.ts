import { ValidationProblem } from '../domain/errors.ts'
import {
  type Egress,
  EgressFailure,
  type RevealSecrets,
  type ToolContext,
  type ToolMaker,
  ToolOutcomeUnknown,
} from '../domain/ports.ts'
import { storable } from '../domain/text-repair.ts'
import type { McpDefinition, McpTool } from '../domain/tool-definition.ts'
import { argumentsChecker } from './argument-schema.ts'
import { type ListedTool, type McpConnection, withMcpServer } from './mcp-connection.ts'
import { asksFirst, checkApproval, checkWhole, timeouts, whyNot } from './outgoing.ts'
import { checkHeaders, fillHeaders } from './secret-headers.ts'

/** Most characters of a name that model APIs take, and what stands between the server's name and the tool's. */
const longestName = 64
const separator = '__'

const longestDescription = 1_024
const mostTools = 128

/** Most bytes of what is stored of a server's tools. */
const mostBytes = 262_144

/** What the protocol says itself. */
const own: ReadonlySet<string> = new Set([
  ...['accept', 'content-type', 'last-event-id', 'mcp-session-id', 'mcp-protocol-version', 'mcp-method', 'mcp-name'],
])

/**
 * Servers of the Model Context Protocol over Streamable HTTP. What a server says of its tools is stored when it is asked: it cannot change
 * them for a run that is under way. Each use has a connection of its own, so that nothing is shared between tenants or runs.
 */
export function mcpServers(egress: Egress, now: () => number): ToolMaker<'MCP'> {
  return {
    async define(name, input, reveal) {
      const url = checkUrl(egress, input.url)
      const allowedTools = checkAllowed(input.allowedTools)
      const server = {
        ...{ url, allowedTools },
        headers: checkHeaders(['mcp', 'headers'], input.headers ?? [], own),
        timeoutMs: checkWhole(['mcp', 'timeoutMs'], input.timeoutMs, timeouts),
        ...checkApproval(['mcp'], input.approval ?? 'NEVER', input.approvalWhen),
      }
      const listed = await listTools(egress, server, reveal).catch((error) => {
        throw new ValidationProblem(['mcp', 'url'], `The server cannot be asked for its tools. ${messageOf(error)}`)
      })
      return { ...server, ...usableTools(name, listed, allowedTools), listedAt: new Date(now()).toISOString() }
    },

    open({ name, definition }, reveal) {
      return definition.tools.map((tool) => {
        const check = argumentsChecker(tool.parameters as Record<string, unknown>)
        return {
          ...{ name: `${name}${separator}${tool.name}`, description: tool.description, isRepeatable: tool.isRepeatable },
          parameters: tool.parameters as Record<string, unknown>,
          asksFirst: asksFirst(definition),
          async call(args, context) {
            const wrong = check(args)
            if (wrong !== null) throw new Error(wrong)
            return callTool(egress, definition, tool, args as Record<string, unknown>, reveal, context)
          },
        }
      })
    },
  }
}

type Server = Pick<McpDefinition, 'url' | 'headers' | 'timeoutMs'>

/** Does something with the server. Whatever comes of it, also an error, has no secrets in it. */
async function useServer<T>(
  egress: Egress,
  { url, headers, timeoutMs }: Server,
  reveal: RevealSecrets,
  signal: AbortSignal | null,
  use: (connection: McpConnection) => Promise<T>,
): Promise<{ value: T; redact: (text: string) => string }> {
  const filled = await fillHeaders(headers, reveal)
  try {
    return { value: await withMcpServer({ egress, url, headers: filled.headers, timeoutMs, signal }, use), redact: filled.redact }
  } catch (error) {
    const message = filled.redact(storable(messageOf(error)))
    throw error instanceof EgressFailure && error.mayHaveArrived ? new ToolOutcomeUnknown(message) : new Error(message)
  }
}

async function listTools(egress: Egress, server: Server, reveal: RevealSecrets): Promise<ListedTool[]> {
  const { value, redact } = await useServer(egress, server, reveal, null, (connection) => connection.listTools(mostTools))
  // Made plain before, so that nothing that is taken out joins what stood around it.
  const tools = value.map((tool) => ({ ...tool, name: plain(tool.name), description: plain(tool.description) }))
  return JSON.parse(redact(JSON.stringify(tools)))
}

async function callTool(
  egress: Egress,
  definition: McpDefinition,
  { name }: McpTool,
  args: Record<string, unknown>,
  reveal: RevealSecrets,
  { signal, idempotencyKey }: ToolContext,
): Promise<string> {
  const { value, redact } = await useServer(egress, definition, reveal, signal, (connection) =>
    connection.callTool(name, args, idempotencyKey),
  )
  const text = redact(storable(value.text))
  if (value.isError) throw new Error(text === '' ? 'The tool failed.' : text)
  return text === '' ? 'The tool answered without content.' : text
}

function usableTools(
  server: string,
  listed: readonly ListedTool[],
  allowed: string[] | null,
): Pick<McpDefinition, 'tools' | 'skippedTools'> {
  const wanted = listed.filter(
    ({ name }, index) => (allowed?.includes(name) ?? true) && listed.findIndex((each) => each.name === name) === index,
  )
  const usable = wanted.filter((tool) => isUsable(server, tool))
  const tools = usable.map(({ name, description, parameters, isRepeatable }) => {
    const { $schema: _dialect, ...schema } = parameters
    return {
      name,
      // A character may have been cut in two.
      description: storable(description.slice(0, longestDescription)),
      parameters: schema as McpTool['parameters'],
      isRepeatable,
    }
  })
  if (Buffer.byteLength(JSON.stringify(tools)) > mostBytes)
    throw new ValidationProblem(
      ['mcp', 'allowedTools'],
      'The server describes its tools at too great a length. Allow fewer of them.',
    )
  const skipped = wanted.filter((tool) => !usable.includes(tool))
  return { tools, skippedTools: skipped.map(({ name }) => storable(name.slice(0, longestName))) }
}

/** Whether models can be given the tool, and what it takes can be checked and stored. */
function isUsable(server: string, { name, parameters }: ListedTool): boolean {
  const isNamed = /^[A-Za-z0-9_-]+$/.test(name) && server.length + separator.length + name.length <= longestName
  return isNamed && whyNot(parameters, { lenient: true }) === null
}

/** Text that can be stored and shown, on one line or more. */
function plain(text: string): string {
  return storable(text).replace(/[^\P{Cc}\t\n\r]/gu, '')
}

function checkUrl(egress: Egress, text: string): string {
  const refuse = (message: string) => new ValidationProblem(['mcp', 'url'], message)
  if (text.length > 2_000) throw refuse('The URL must have at most 2,000 characters.')
  const refusal = egress.refusalOf(text)
  if (refusal !== null) throw refuse(refusal)
  return new URL(text).href
}

function checkAllowed(names: readonly string[] | null | undefined): string[] | null {
  if (names == null) return null
  if (names.length > mostTools || !names.every((name) => /^[\x21-\x7e]{1,128}$/.test(name)))
    throw new ValidationProblem(
      ['mcp', 'allowedTools'],
      `There must be at most ${mostTools} names, of 1 to 128 visible ASCII characters.`,
    )
  return [...new Set(names)]
}

function messageOf(error: unknown): string {
  if (error instanceof EgressFailure) return `The request failed. ${error.message}`
  return error instanceof Error ? error.message : String(error)
}
