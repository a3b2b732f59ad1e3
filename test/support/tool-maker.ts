import { newId } from '../../src/domain/ids.ts'
import type { RevealSecrets, Tool } from '../../src/domain/ports.ts'
import type { ToolInputs } from '../../src/domain/tool-definition.ts'
import { createEgress, type EgressOptions } from '../../src/tools/egress.ts'
import { createToolbox } from '../../src/tools/toolbox.ts'

/** A way out that leads to this machine at these ports, as an operator may allow. */
export function localEgress(ports: readonly number[], options: EgressOptions = {}) {
  return createEgress({ allowed: ports.map((port) => ({ address: '127.0.0.1', port })), allowHttp: true, ...options })
}

/** Whoever asks gets these secrets. */
function revealing(secrets: Record<string, string>): RevealSecrets {
  return async (names) => new Map(names.flatMap((name) => (secrets[name] === undefined ? [] : [[name, secrets[name]] as const])))
}

type Maker = { egress: ReturnType<typeof createEgress>; secrets?: Record<string, string> }

/** A tool as a tenant defines it, checked and opened. */
export async function httpTool({ egress, secrets = {} }: Maker, input: ToolInputs['HTTP']): Promise<Tool> {
  const { HTTP } = createToolbox({ egress, now: Date.now }).kinds
  const definition = await HTTP.define('orders', input, revealing(secrets))
  const [tool] = HTTP.open({ name: 'orders', description: 'Orders.', definition }, revealing(secrets))
  if (!tool) throw new Error('An HTTP tool is one tool.')
  return tool
}

/** The tools of a server as a tenant defines it, checked and opened. */
export async function mcpTools({ egress, secrets = {} }: Maker, input: ToolInputs['MCP'], name = 'crm') {
  const { MCP } = createToolbox({ egress, now: Date.now }).kinds
  const definition = await MCP.define(name, input, revealing(secrets))
  return { definition, tools: MCP.open({ name, description: 'The CRM.', definition }, revealing(secrets)) }
}

/** What a tool is told of a call. */
export function callContext(signal: AbortSignal = new AbortController().signal) {
  return { signal, idempotencyKey: newId() }
}
