import { dataModel } from './generated/data-model.ts'

/** Most rows that a read may ask for and still share a connection with others. */
const mostRows = 200

/** Models with rows of up to 100,000 bytes: a list of them is never short. */
const wideModels: ReadonlySet<string> = new Set(['Message'])

type Args = Record<string, unknown>

/**
 * Whether a read is sure to be short: it names its rows by key and bounds how many it takes, nested lists included.
 * Only such reads share connections, since whoever is behind a long one waits.
 */
export function isShortRead(model: string, operation: string, args: unknown): boolean {
  if (typeof args !== 'object' || args === null) return false
  const { where, take, include, select } = args as Args
  switch (operation) {
    case 'findFirst':
    case 'findFirstOrThrow':
      return isKeyed(model, where) && nestedAreShort(model, include ?? select)
    case 'findMany':
      return !wideModels.has(model) && isKeyed(model, where) && isBounded(where, take) && nestedAreShort(model, include ?? select)
    default:
      return false
  }
}

/** Keyed: `where` fixes the id, or a foreign key that an index starts with after the tenant. */
function isKeyed(model: string, where: unknown): boolean {
  if (typeof where !== 'object' || where === null) return false
  const keys = ['id', ...Object.values(dataModel[model]?.relations ?? {}).flatMap((relation) => relation.from)]
  return keys.some((key) => key !== 'tenantId' && isValue((where as Args)[key]))
}

function isValue(filter: unknown): boolean {
  return typeof filter === 'string' || inList(filter) !== null
}

function inList(filter: unknown): unknown[] | null {
  const list = typeof filter === 'object' && filter !== null ? (filter as Args)['in'] : undefined
  return Array.isArray(list) && list.length <= mostRows ? list : null
}

function isBounded(where: unknown, take: unknown): boolean {
  if (typeof take === 'number') return Math.abs(take) <= mostRows
  return inList((where as Args)['id']) !== null
}

function nestedAreShort(model: string, selected: unknown): boolean {
  if (typeof selected !== 'object' || selected === null) return true
  const relations = dataModel[model]?.relations ?? {}
  return Object.entries(selected).every(([key, value]) => {
    if (key === '_count') return false
    const relation = relations[key]
    if (!relation || !value) return true
    const nested = (value === true ? {} : value) as Args
    const bounded =
      !relation.list ||
      (!wideModels.has(relation.model) && typeof nested['take'] === 'number' && Math.abs(nested['take']) <= mostRows)
    return bounded && nestedAreShort(relation.model, nested['include'] ?? nested['select'])
  })
}
