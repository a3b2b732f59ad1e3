import type { RoleName } from '../../src/schema/role.ts'
import { type Reference, referenceOf, validVariables } from './arguments.ts'
import type { Encounter } from './encounters.ts'
import { documentOf, type Operation, type OperationKind, operations, withValue } from './operations.ts'
import { type Answer, overEventStream, overGet, overHttp, overWebSocket, type Transport } from './transports.ts'

/** Asks, as the encounter's first party in this role, for what `value` names. */
type Ask = (url: string, encounter: Encounter, role: RoleName, value: string) => Promise<Answer>

/** Something that can be asked by what names rows. */
export type Subject = {
  kind: OperationKind | 'path'
  title: string
  tags: string[]
  reference: Reference
  /** The ways to ask it. Behind them all is the same. */
  asks: [Ask, ...Ask[]]
  /** Whether nothing was found, or the role may not look at all. */
  isAbsence: (answer: Answer) => boolean
}

/** Paths that take an id, outside of GraphQL. */
const paths: readonly { path: string; type: string }[] = [{ path: '/exports/', type: 'TenantExport' }]

/** Every argument of an operation that names rows, and every path. */
export const subjects: readonly Subject[] = [
  ...operations.flatMap((operation) =>
    operation.places.flatMap((place): Subject[] => {
      const reference = referenceOf(place)
      if (!reference) return []
      const document = documentOf(operation, 2)
      const [first, ...more] = transportsOf(operation).map((transport): Ask => {
        return (url, { own, keys }, role, value) => {
          // Nothing else narrows the answer.
          const variables = withValue(validVariables(operation, own, 'needed'), place, value)
          return transport({ url, key: keys[role], query: document, variables })
        }
      }) as [Ask, ...Ask[]]
      const title = `${operation.kind} ${operation.name} by ${place.coordinate}`
      return [
        {
          kind: operation.kind,
          title,
          tags: tagsOf(operation),
          reference,
          asks: [first, ...more],
          isAbsence: (answer) => isNothing(operation, answer),
        },
      ]
    }),
  ),
  ...paths.map(
    ({ path, type }): Subject => ({
      kind: 'path',
      title: `GET ${path}<id>`,
      tags: [],
      reference: { by: 'id', types: [type] },
      asks: [(url, { keys }, role, value) => overGet({ url: `${url}${path}${encodeURIComponent(value)}`, key: keys[role] })],
      isAbsence: ({ shown }) => /^40[34]\n/.test(shown),
    }),
  ),
]

/** How the operation can be asked. */
export function transportsOf({ kind }: Operation): Transport[] {
  if (kind === 'mutation') return [overHttp]
  return kind === 'subscription' ? [overWebSocket, overEventStream] : [overHttp, overWebSocket]
}

/** What streams holds for the live events as well. */
export function tagsOf({ kind }: Operation): string[] {
  return kind === 'subscription' ? ['rule-13'] : []
}

const refusals: ReadonlySet<string> = new Set(['NOT_FOUND', 'FORBIDDEN'])

/** Null, an empty page, NotFound, Forbidden. */
function isNothing({ name }: Operation, { results }: Answer): boolean {
  return results.every(({ data, errors }) => {
    if (errors) return errors.every(({ extensions }) => refusals.has(String(extensions?.['code'])))
    const result = data?.[name] as { __typename?: string; edges?: unknown[] } | null
    return result === null || result?.edges?.length === 0 || ['NotFound', 'Forbidden'].includes(String(result?.__typename))
  })
}
