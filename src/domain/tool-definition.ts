import type { JsonObject } from './text.ts'

/** A header that a tool sends. In its value `{{secret:name}}` stands for the tenant's secret of that name. */
export type ToolHeader = { name: string; value: string }

/** Whether a person has to agree before a call: never, always, or when the arguments match a JSON Schema. */
export const toolApprovals = ['NEVER', 'ALWAYS', 'WHEN'] as const
export type ToolApproval = (typeof toolApprovals)[number]

export const httpMethods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const
export type HttpMethod = (typeof httpMethods)[number]

/** A field of what the model gets, and where in the answer it is: names, indices and `[*]` of JSONPath (RFC 9535). */
export type ResponseField = { name: string; path: string }

/** What every tool that calls out has. `approvalWhen` is null unless `approval` is WHEN; `timeoutMs` is in milliseconds. */
type Outgoing = {
  url: string
  headers: ToolHeader[]
  timeoutMs: number
  approval: ToolApproval
  approvalWhen: JsonObject | null
}

/** One request to a server. `url` is a template, and `parameters` a JSON Schema; with no `responseMapping` the answer is shown as it is. */
export type HttpDefinition = Outgoing & {
  method: HttpMethod
  parameters: JsonObject
  allowedHosts: string[]
  responseMapping: ResponseField[]
  maxBytes: number
  /** Whether a call that may have been made can be made again. */
  isIdempotent: boolean
}

/** A tool as an MCP server described it. */
export type McpTool = { name: string; description: string; parameters: JsonObject; isRepeatable: boolean }

/** A server of the Model Context Protocol, with those of its tools that the tenant allows, as they were when they were listed. */
export type McpDefinition = Outgoing & {
  /** Names of the server's tools; null for all that it has. */
  allowedTools: string[] | null
  tools: McpTool[]
  /** Names of those that it has and the tenant allows, and that no model can be given: what they take, or their names, are not usable. */
  skippedTools: string[]
  /** When the server was asked for its tools, as ISO 8601 has it. */
  listedAt: string
}

/** What is stored of each kind. A further kind has its place here, in the enumeration of the data model, and in `Toolbox.kinds`. */
export type ToolDefinitions = { HTTP: HttpDefinition; MCP: McpDefinition }

export type ToolKind = keyof ToolDefinitions

type OutgoingInput = {
  url: string
  headers?: readonly ToolHeader[] | null
  timeoutMs?: number | null
  approval?: ToolApproval | null
  approvalWhen?: Record<string, unknown> | null
}

/** What may be said of each kind; what is absent or null has a default. */
export type ToolInputs = {
  HTTP: OutgoingInput & {
    method?: HttpMethod | null
    parameters?: Record<string, unknown> | null
    allowedHosts?: readonly string[] | null
    responseMapping?: readonly ResponseField[] | null
    maxBytes?: number | null
    isIdempotent?: boolean | null
  }
  MCP: OutgoingInput & { allowedTools?: readonly string[] | null }
}

/** A tool as it is in the database. */
export type StoredTool<Kind extends ToolKind> = { name: string; description: string; definition: ToolDefinitions[Kind] }
