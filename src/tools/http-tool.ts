import { ValidationProblem } from '../domain/errors.ts'
import {
  type Egress,
  EgressFailure,
  type RevealSecrets,
  type ToolContext,
  type ToolMaker,
  ToolOutcomeUnknown,
} from '../domain/ports.ts'
import type { HttpDefinition, HttpMethod } from '../domain/tool-definition.ts'
import { argumentsChecker } from './argument-schema.ts'
import { isAllowedHost } from './egress.ts'
import { asksFirst, checkApproval, checkSchema, checkWhole, timeouts } from './outgoing.ts'
import { checkMapping, mapResponse } from './response-mapping.ts'
import { checkHeaders, fillHeaders } from './secret-headers.ts'
import { parseUrlTemplate, type UrlTemplate } from './url-template.ts'

const mostHosts = 20

/** A name of letters, digits and hyphens, or `*.` and at least two labels; or an address. */
const hostPattern = /^(?:\*\.(?=[^.]+\.))?(?:[a-z0-9_-]+\.)*[a-z0-9_-]+$|^\[[0-9a-f:.]+\]$/

/** Bounds on `maxBytes`, in bytes. */
const sizes = { fallback: 262_144, least: 1, most: 1_048_576 }

/** What the model is shown of the answer of a server that refuses, in characters. */
const longestRefusal = 2_000

/** What the tool says itself. */
const own: ReadonlySet<string> = new Set(['content-type', 'idempotency-key'])

const nothing = { type: 'object', properties: {}, additionalProperties: false } as const

/** Tools that are one request to a server. */
export function httpTools(egress: Egress): ToolMaker<'HTTP'> {
  return {
    async define(_name, input) {
      const url = parseUrlTemplate(['http', 'url'], input.url)
      const refusal = egress.refusalOf(input.url.replace(/\{[^{}]*\}/g, 'x'))
      if (refusal !== null) throw new ValidationProblem(['http', 'url'], refusal)
      const method = input.method ?? 'GET'
      const parameters = checkParameters(input.parameters ?? nothing, url)
      return {
        ...{ method, url: input.url, parameters },
        headers: checkHeaders(['http', 'headers'], input.headers ?? [], own),
        allowedHosts: checkHosts(input.allowedHosts ?? [url.host], url),
        responseMapping: checkMapping(['http', 'responseMapping'], input.responseMapping ?? []),
        timeoutMs: checkWhole(['http', 'timeoutMs'], input.timeoutMs, timeouts),
        maxBytes: checkWhole(['http', 'maxBytes'], input.maxBytes, sizes),
        isIdempotent: input.isIdempotent ?? method === 'GET',
        ...checkApproval(['http'], input.approval ?? 'NEVER', input.approvalWhen),
      }
    },

    open({ name, description, definition }, reveal) {
      const check = argumentsChecker(definition.parameters)
      return [
        {
          ...{ name, description, parameters: definition.parameters as Record<string, unknown> },
          isRepeatable: definition.isIdempotent,
          asksFirst: asksFirst(definition),
          async call(args, context) {
            const wrong = check(args)
            if (wrong !== null) throw new Error(wrong)
            return callServer(egress, definition, args as Record<string, unknown>, reveal, context)
          },
        },
      ]
    },
  }
}

async function callServer(
  egress: Egress,
  definition: HttpDefinition,
  args: Record<string, unknown>,
  reveal: RevealSecrets,
  { signal, idempotencyKey }: ToolContext,
): Promise<string> {
  const { method, allowedHosts, maxBytes, timeoutMs } = definition
  const { url, body } = composeRequest(definition, args)
  const { headers, redact } = await fillHeaders(definition.headers, reveal)
  const sent = {
    ...{ accept: 'application/json, text/*;q=0.9', 'user-agent': 'Bulkhead', ...headers, 'idempotency-key': idempotencyKey },
    ...(body !== null && { 'content-type': 'application/json' }),
  }
  const request = { url, method, headers: sent, body, allowedHosts, maxBytes, timeout: timeoutMs, signal }
  const response = await egress.request(request).catch((error) => {
    if (!(error instanceof EgressFailure)) throw error
    const message = `The request failed. ${error.message}`
    throw error.mayHaveArrived ? new ToolOutcomeUnknown(message) : new Error(message)
  })
  const text = redact(textOf(response.body))
  if (response.status < 200 || response.status > 299)
    throw new Error(`The server answered ${response.status}${text === '' ? '.' : `: ${text.slice(0, longestRefusal)}`}`)
  if (definition.responseMapping.length > 0) return redact(mapResponse(definition.responseMapping, jsonOf(text)))
  return text === '' ? `The server answered ${response.status}, without content.` : text
}

/** Arguments that the URL has no place for go into the body as JSON; of requests without one, into the query. */
function composeRequest({ method, url: template }: HttpDefinition, args: Record<string, unknown>) {
  const parsed = parseUrlTemplate([], template)
  const url = parsed.expand(args)
  const placed = new Set(parsed.variables.map(({ name }) => name))
  const rest = Object.entries(args).filter(([name]) => !placed.has(name))
  if (takesBody(method)) return { url: url.href, body: JSON.stringify(Object.fromEntries(rest)) }
  for (const [name, value] of rest) for (const each of [value].flat()) url.searchParams.append(name, queryText(each))
  return { url: url.href, body: null }
}

function takesBody(method: HttpMethod): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH'
}

function queryText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value)
}

/** UTF-8 alone: in what is read otherwise, secrets would not be found. */
function textOf(body: Uint8Array): string {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body)
    if (!text.includes('\0')) return text
  } catch {
    // It is no text.
  }
  throw new Error('The answer is not text in UTF-8.')
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error('The answer is not JSON.')
  }
}

/** A JSON Schema of an object that has what the template names, and surely what its path names. */
function checkParameters(parameters: Record<string, unknown>, { variables }: UrlTemplate): HttpDefinition['parameters'] {
  const path = ['http', 'parameters']
  const { type, properties = {}, required = [] } = parameters as { type?: unknown; properties?: object; required?: unknown }
  if (type !== 'object') throw new ValidationProblem(path, 'The JSON Schema must be one of an object: its type must be "object".')
  const schema = checkSchema(path, parameters)
  const unknown = variables.find(({ name }) => !Object.hasOwn(properties, name))
  if (unknown) throw new ValidationProblem(['http', 'url'], `The JSON Schema has no property for the argument ${unknown.name}.`)
  const optional = variables.find(({ name, place }) => place === 'path' && !(required as unknown[]).includes(name))
  if (optional) throw new ValidationProblem(path, `The path needs the argument ${optional.name}, so it must be required.`)
  return schema
}

function checkHosts(hosts: readonly string[], { host }: UrlTemplate): string[] {
  const refuse = (message: string) => new ValidationProblem(['http', 'allowedHosts'], message)
  const allowed = [...new Set(hosts.map((each) => each.toLowerCase()))]
  if (allowed.length > mostHosts) throw refuse(`There must be at most ${mostHosts} hosts.`)
  if (!allowed.every((each) => each.length <= 253 && hostPattern.test(each)))
    throw refuse('A host must be a name as in api.example.com, or *.example.com for all below it, without a scheme or a port.')
  if (!isAllowedHost(host, allowed)) throw refuse('The host of the URL must be one of the allowed hosts.')
  return allowed
}
