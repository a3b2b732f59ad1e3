import { setTimeout as delay } from 'node:timers/promises'
import { isFenced } from '../data/fence.ts'
import type { ExportStatus, TenantExport } from '../data/generated/client.ts'
import { isOutage } from '../data/outage.ts'
import { recordAudit } from './audit.ts'
import { NotFound } from './errors.ts'
import { archivedRows, writeArchive } from './export-archive.ts'
import { type ExportSink, inSnapshot, TooManyExports, takeSeat } from './export-snapshot.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import { requireRole, type Scope } from './scope.ts'

export type { TenantExport } from '../data/generated/client.ts'

/** How long an export can be fetched, in milliseconds. */
const lifetime = 24 * 60 * 60_000

/** How long counting the rows may take, in milliseconds: it holds a connection. */
const longestCount = 30_000

/** How long an export waits until the rows of others are counted, in milliseconds. Meanwhile it holds nothing. */
const patience = 5_000

/** Between two notes of how far an export is, in milliseconds. */
const noteEvery = 1_000

/**
 * Lets an archive of all the tenant's data be fetched for 24 hours, as often as needed. Nothing is stored: each time the archive is
 * made of what there is then. Throws TooManyExports when others are being prepared for too long. For admins.
 */
export async function exportTenant(
  scope: Scope,
  input: { idempotencyKey?: string | null },
): Promise<{ tenantExport: TenantExport }> {
  requireRole(scope, 'ADMIN')
  const deadline = performance.now() + patience
  for (;;) {
    try {
      return { tenantExport: await createOnce(scope, input.idempotencyKey) }
    } catch (error) {
      if (!(error instanceof TooManyExports) || performance.now() > deadline) throw error
      await delay(100)
    }
  }
}

function createOnce(scope: Scope, key: string | null | undefined): Promise<TenantExport> {
  return idempotent(
    scope,
    { mutation: 'exportTenant', key, input: {} },
    {
      perform: (remember) => createExport(scope, remember),
      replay: async (id) => {
        const found = await findTenantExport(scope, id)
        if (!found) throw new NotFound('export')
        return found
      },
    },
  )
}

type Remember = Parameters<Parameters<typeof idempotent>[2]['perform']>[0]

function createExport(scope: Scope, remember: Remember): Promise<TenantExport> {
  return scope.db.$transaction(
    async (tx) => {
      const id = newId()
      // Before an equal call is waited for, which takes a connection too.
      await takeSeat(tx, scope.tenant.id, 'count')
      await remember(tx, id)
      const createdAt = new Date(scope.ports.now())
      const expiresAt = new Date(createdAt.getTime() + lifetime)
      const counts = await archivedRows(tx)
      const rowsTotal = counts.reduce((sum, { rows }) => sum + rows, 0)
      const row = { id, tenantId: scope.tenant.id, apiKeyId: scope.actor.id, rowsTotal, createdAt, expiresAt }
      const created = await tx.tenantExport.create({ data: row })
      await recordAudit(scope, tx, { action: 'exportTenant', subject: 'TenantExport', subjectId: id, details: { rowsTotal } })
      return created
    },
    { timeout: longestCount },
  )
}

/** An export of the tenant, expired ones included; null when there is none. For admins. */
export async function findTenantExport(scope: Scope, id: string): Promise<TenantExport | null> {
  requireRole(scope, 'ADMIN')
  return isUuid(id) ? scope.db.tenantExport.findFirst({ where: { id } }) : null
}

/**
 * Makes the archive and sends it to `sink`: all rows as they are at one moment, in one read-only transaction behind the tenant's
 * walls, a few at a time. Other processes see how far it is. Throws NotFound, TooManyExports before anything is written, and what
 * the sink throws. For admins.
 */
export async function sendArchive(scope: Scope, id: string, sink: ExportSink): Promise<void> {
  requireRole(scope, 'ADMIN')
  if (!(await findTenantExport(scope, id))) throw new NotFound('export')
  const progress = new Progress(scope, id)
  try {
    const rows = await inSnapshot(scope.db, scope.tenant.id, 'export', async (tx) => {
      await progress.note('STREAMING', 0)
      return writeArchive(scope, tx, sink.write, (sent) => progress.tick(sent))
    })
    await sink.end()
    await progress.note('COMPLETED', rows)
  } catch (error) {
    if (!(error instanceof TooManyExports)) await progress.fail()
    throw error
  }
}

/** How far an export is, as everybody can see it. */
class Progress {
  readonly #scope: Scope
  readonly #id: string
  #sent = 0
  #notedAt = 0

  constructor(scope: Scope, id: string) {
    this.#scope = scope
    this.#id = id
  }

  /** Notes it now and then. */
  async tick(sent: number): Promise<void> {
    this.#sent = sent
    if (performance.now() - this.#notedAt >= noteEvery) await this.note('STREAMING', sent)
  }

  /** That the row could not be reached stops nothing: the archive is what was asked for. */
  async note(status: ExportStatus, rowsSent: number): Promise<void> {
    this.#notedAt = performance.now()
    const finishedAt = status === 'STREAMING' ? null : new Date(this.#scope.ports.now())
    const change = this.#scope.db.tenantExport.updateMany({ where: { id: this.#id }, data: { status, rowsSent, finishedAt } })
    await change.catch((error) => {
      if (!isOutage(error) && !isFenced(error)) throw error
    })
  }

  async fail(): Promise<void> {
    await this.note('FAILED', this.#sent)
  }
}

/** How much of the archive went out the last time it was fetched, or is going out now: from 0 to 1. */
export function progressOf({ status, rowsSent, rowsTotal }: TenantExport): number {
  if (status === 'COMPLETED') return 1
  // Rows may have been added since they were counted.
  return Math.min(rowsSent / Math.max(rowsTotal, 1), 0.99)
}
