import { ValidationProblem } from './errors.ts'
import { uuidOfHex } from './ids.ts'
import { latestTime } from './time.ts'

/** The arguments of a Relay connection. `first` and `after` walk forwards, `last` and `before` backwards. */
export type PageArgs = {
  first?: number | null
  after?: string | null
  last?: number | null
  before?: string | null
}

export type Page<T> = { edges: { cursor: string; node: T }[]; pageInfo: PageInfo }

type PageInfo = {
  /**
   * Exact in the direction of the walk. Against it, true when the page began at a cursor, since what the cursor names lies
   * there (GraphQL Cursor Connections Specification, "PageInfo").
   */
  hasNextPage: boolean
  hasPreviousPage: boolean
  startCursor: string | null
  endCursor: string | null
}

type Direction = 'asc' | 'desc'

export type PageOptions = {
  /** The order of the list by `(createdAt, id)`. */
  direction: Direction
  /** Rows when neither `first` nor `last` is given. Default 20. */
  defaultSize?: number
  /** The most that may be asked for. Default 100. */
  maxSize?: number
}

/** A row's place in the list: equal times are ordered by id. */
export type Place = { createdAt: Date; id: string }

/** What follows one place, as a Prisma filter that the index on `(…, created_at, id)` answers. */
type Bound =
  | { createdAt: { gte: Date }; OR: [{ createdAt: { gt: Date } }, { id: { gt: string } }] }
  | { createdAt: { lte: Date }; OR: [{ createdAt: { lt: Date } }, { id: { lt: string } }] }

export type PageFilter = { AND: Bound[] }
export type PageOrder = [{ createdAt: Direction }, { id: Direction }]

/**
 * One page of a list, by keyset: a page costs the same wherever it is, and rows added meanwhile shift nothing. `load` reads
 * `take` rows by `where`, which it spreads into its own filter, and `orderBy`. Throws a ValidationProblem that names the
 * argument when a size is negative or above the most, when both sizes are given, or when a cursor is malformed.
 */
export async function paginate<T extends Place>(
  args: PageArgs,
  options: PageOptions,
  load: (where: PageFilter, orderBy: PageOrder, take: number) => Promise<T[]>,
): Promise<Page<T>> {
  const { direction, defaultSize = 20, maxSize = 100 } = options
  const first = checkSize('first', args.first, maxSize)
  const last = checkSize('last', args.last, maxSize)
  if (first !== null && last !== null) throw new ValidationProblem(['last'], 'Give either first or last, not both.')
  const after = parsePlace('after', args.after)
  const before = parsePlace('before', args.before)

  const backwards = last !== null
  const size = first ?? last ?? defaultSize
  const bounds = [...(after ? [boundAt(after, direction)] : []), ...(before ? [boundAt(before, opposite(direction))] : [])]
  const order = backwards ? opposite(direction) : direction
  const rows = await load({ AND: bounds }, [{ createdAt: order }, { id: order }], size + 1)

  const more = rows.length > size
  const nodes = rows.slice(0, size)
  if (backwards) nodes.reverse()
  const edges = nodes.map((node) => ({ cursor: formatCursor(node), node }))
  return {
    edges,
    pageInfo: {
      hasNextPage: backwards ? before !== null : more,
      hasPreviousPage: backwards ? more : after !== null,
      startCursor: edges[0]?.cursor ?? null,
      endCursor: edges.at(-1)?.cursor ?? null,
    },
  }
}

function opposite(direction: Direction): Direction {
  return direction === 'asc' ? 'desc' : 'asc'
}

function boundAt({ createdAt, id }: Place, direction: Direction): Bound {
  return direction === 'asc'
    ? { createdAt: { gte: createdAt }, OR: [{ createdAt: { gt: createdAt } }, { id: { gt: id } }] }
    : { createdAt: { lte: createdAt }, OR: [{ createdAt: { lt: createdAt } }, { id: { lt: id } }] }
}

function checkSize(name: 'first' | 'last', size: number | null | undefined, maxSize: number): number | null {
  if (size === null || size === undefined) return null
  if (!Number.isInteger(size) || size < 0 || size > maxSize) {
    throw new ValidationProblem([name], `${name} must be a whole number from 0 to ${maxSize}.`)
  }
  return size
}

/** Milliseconds since the epoch, then the UUID: the bytes of each. */
const cursorLayout = { time: 6, id: 16 }

/** The cursor of a row, in every list. */
export function formatCursor({ createdAt, id }: Place): string {
  const bytes = Buffer.alloc(cursorLayout.time + cursorLayout.id)
  bytes.writeUIntBE(createdAt.getTime(), 0, cursorLayout.time)
  bytes.write(id.replaceAll('-', ''), cursorLayout.time, 'hex')
  return bytes.toString('base64url')
}

/** Where a cursor lies; null without one. Throws a ValidationProblem that names the argument when it is none. */
export function parsePlace(name: 'after' | 'before', text: string | null | undefined): Place | null {
  if (text === null || text === undefined) return null
  const place = parseCursor(text)
  // Base64 has several spellings of the same bytes; only the one that was handed out is a cursor.
  if (!place || formatCursor(place) !== text) throw new ValidationProblem([name], `${name} is not a cursor of this list.`)
  return place
}

function parseCursor(text: string): Place | null {
  const { time, id } = cursorLayout
  const bytes = Buffer.from(text, 'base64url')
  if (bytes.length !== time + id) return null
  const createdAt = new Date(bytes.readUIntBE(0, time))
  return createdAt.getTime() <= latestTime ? { createdAt, id: uuidOfHex(bytes.toString('hex', time)) } : null
}
