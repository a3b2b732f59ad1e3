import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import { Unavailable } from './errors.ts'
import type { TenantId } from './ids.ts'

/** How long sending an export may take, in milliseconds: it holds a connection. */
const longestStream = 15 * 60_000
const longestPause = String(longestStream)

/** Exports of one kind that are made for one tenant at a time, by all processes. */
const seatsPerTenant = 2

/** What there are seats for: counting the rows of an archive, sending it, and sending the ledger, to its tenant and to operators. */
export type ExportRoom = 'count' | 'export' | 'ledger' | 'ledger for operators'

/** Where an export goes. Both resolve when there is room for more, and throw when nobody takes it any more. */
export type ExportSink = { write(text: string): Promise<void>; end(): Promise<void> }

/** The tenant has as many exports under way as it may. */
export class TooManyExports extends Unavailable {
  constructor() {
    super('Too many exports are under way. Wait until one of them is done.', 5)
    this.name = 'TooManyExports'
  }
}

/**
 * Runs `work` on the tenant's rows as they are at one moment, in one read-only transaction, with one of the tenant's seats. It may take
 * 15 minutes, however slow whoever takes the rows is. Throws TooManyExports before anything is read.
 */
export function inSnapshot<T>(
  db: TenantDb,
  tenantId: TenantId,
  room: ExportRoom,
  work: (tx: TenantTransaction) => Promise<T>,
): Promise<T> {
  return db.$transaction(
    async (tx) => {
      await tx.$executeRaw`SET TRANSACTION READ ONLY`
      // Between two reads whoever takes the export may be slow.
      await tx.$queryRaw`select set_config('idle_in_transaction_session_timeout', ${longestPause}, true)`
      await takeSeat(tx, tenantId, room)
      return work(tx)
    },
    { isolationLevel: 'RepeatableRead', timeout: longestStream },
  )
}

/** One of the tenant's seats, for as long as the transaction lasts, whichever process it is in. Throws TooManyExports. */
export async function takeSeat(tx: TenantTransaction, tenantId: TenantId, room: ExportRoom): Promise<void> {
  for (let seat = 1; seat <= seatsPerTenant; seat++) {
    const [row] = await tx.$queryRaw<{ mine: boolean }[]>`
      select pg_try_advisory_xact_lock(hashtextextended(${`${room} ${seat} of ${tenantId}`}, 0)) as mine`
    if (row?.mine) return
  }
  throw new TooManyExports()
}
