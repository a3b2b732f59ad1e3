import type { Egress, Toolbox } from '../domain/ports.ts'
import { builtinTools } from './builtin.ts'
import { httpTools } from './http-tool.ts'
import { mcpServers } from './mcp-server.ts'

/** What agents can call. Tenants' own tools reach the outside by `egress` alone; `now` is the clock, in milliseconds since the epoch. */
export function createToolbox({ egress, now }: { egress: Egress; now: () => number }): Toolbox {
  const builtin = builtinTools(now)
  return { available: async () => builtin, kinds: { HTTP: httpTools(egress), MCP: mcpServers(egress, now) } }
}
