import type { TenantDb } from '../data/tenant-scope.ts'
import { auditRow } from './audit.ts'
import type { Ports, Tool } from './ports.ts'
import type { Turn } from './run-turn.ts'
import { toolCallKey } from './tool-call.ts'

/** Characters of a name that a model made up, as far as they are noted. */
const longestName = 64

type Caller = { run: { id: string; tenantId: string }; db: TenantDb; ports: Pick<Ports, 'now'> }

/**
 * Notes in the audit log which tools the model called that it does not have: once for each call, however often the turn is tried. What it
 * wanted to tell them is content, and is not noted.
 */
export async function auditRefusedCalls(
  { run, db, ports }: Caller,
  number: number,
  turn: Turn,
  tools: readonly Tool[],
): Promise<void> {
  const now = ports.now()
  const rows = turn.toolCalls.flatMap((call, index) => {
    if (tools.some(({ name }) => name === call.name)) return []
    const entry = { action: 'refuseToolCall', subject: 'Run', subjectId: run.id, details: { name: nameOf(call.name) } } as const
    const row = auditRow(run.tenantId, { kind: 'SYSTEM', id: null, name: 'Bulkhead' }, entry, now)
    return [{ ...row, id: toolCallKey({ runId: run.id, turn: number, index }) }]
  })
  if (rows.length > 0) await db.auditEvent.createMany({ data: rows, skipDuplicates: true })
}

/** A name that could be a tool's; of anything else only that it was none. */
function nameOf(called: string): string | null {
  return /^[\w.-]+$/.test(called) ? called.slice(0, longestName) : null
}
