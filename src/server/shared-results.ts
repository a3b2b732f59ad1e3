import { type DocumentNode, type ExecutionArgs, type ExecutionResult, Kind, visit } from 'graphql'
import type { Principal } from '../domain/authenticate.ts'

/** Under this key a result of a subscription has the id of its event, which SSE sends along. */
export const eventId = Symbol('event id')

/** Under this key a result of a subscription has itself as JSON, unless it has errors: those are masked for each who gets them. */
export const written = Symbol('written')

export type EventResult = ExecutionResult & { [eventId]?: string; [written]?: SharedText }

/** A text that many are sent, encoded once. */
export class SharedText {
  readonly text: string
  #bytes: Buffer | null = null

  constructor(text: string) {
    this.text = text
  }

  get bytes(): Buffer {
    this.#bytes ??= Buffer.from(this.text)
    return this.#bytes
  }
}

type Made = EventResult | Promise<EventResult>

/** Characters of results that are kept for whoever asks for the same. */
const mostText = 4_194_304

/**
 * What events came to, executed and written as JSON once for all who are told the same event, asked with the same document and
 * variables, and may see the same. A result that something had to be loaded for is shared while it is being made, and no longer:
 * whoever comes later sees what is true by then.
 */
export class SharedResults {
  readonly #results = new WeakMap<object, Map<string, Made>>()
  /** In the order in which they were made; the oldest go first. */
  #kept: { event: object; key: string; length: number }[] = []
  #text = 0

  /** The result of `event` under a `sharingKey`, made by `execute` unless it is known; without a key it is made each time. */
  of(event: unknown, key: string | null, execute: () => Made): Made {
    if (key === null || typeof event !== 'object' || event === null) return finish(event, execute())
    const ofEvent = this.#results.get(event) ?? new Map<string, Made>()
    const known = ofEvent.get(key)
    if (known) return known
    const made = finish(event, execute())
    this.#results.set(event, ofEvent.set(key, made))
    if (!(made instanceof Promise)) this.#keep(event, key, made)
    else made.finally(() => ofEvent.delete(key)).catch(() => undefined)
    return made
  }

  #keep(event: object, key: string, { [written]: json }: EventResult): void {
    const length = json?.text.length ?? 0
    this.#kept.push({ event, key, length })
    this.#text += length
    if (this.#text <= mostText) return
    // Down to half, so that not every result moves all others.
    const first = this.#kept.findIndex(({ length }) => {
      if (this.#text <= mostText / 2) return true
      this.#text -= length
      return false
    })
    for (const old of this.#kept.splice(0, first === -1 ? this.#kept.length : first)) {
      this.#results.get(old.event)?.delete(old.key)
    }
  }
}

function finish(event: unknown, made: Made): Made {
  if (made instanceof Promise) return made.then((result) => write(event, result))
  return write(event, made)
}

function write(event: unknown, result: EventResult): EventResult {
  const id = typeof event === 'object' && event !== null && 'cursor' in event ? String(event.cursor) : undefined
  return {
    ...result,
    [eventId]: id,
    ...(!result.errors && { [written]: result[written] ?? new SharedText(JSON.stringify(result)) }),
  }
}

const documents = new WeakMap<DocumentNode, { id: number; variables: ReadonlySet<string> }>()
let documentCount = 0

/**
 * Under which a subscription shares the results of its events: its tenant, role and user, its document and operation, and its
 * variables but for where it begins. Null for who belongs to no tenant.
 */
export function sharingKey(args: ExecutionArgs, principal: Principal | null): string | null {
  if (principal?.kind !== 'tenant') return null
  const { tenant, actor } = principal.scope
  const document = documents.get(args.document) ?? describe(args.document)
  documents.set(args.document, document)
  const variables = Object.entries(args.variableValues ?? {}).filter(([name]) => document.variables.has(name))
  return JSON.stringify([tenant.id, actor.role, actor.userId, document.id, args.operationName ?? null, variables])
}

/** The document by a number of its own, and the variables that its results may depend on. */
function describe(document: DocumentNode) {
  const variables = new Set<string>()
  visit(document, {
    VariableDefinition: () => false,
    Argument(node, _key, _parent, _path, ancestors) {
      const kinds = ancestors.flatMap((ancestor) => ('kind' in ancestor ? [ancestor.kind] : []))
      const isOfRoot = kinds.includes(Kind.OPERATION_DEFINITION) && kinds.filter((kind) => kind === Kind.FIELD).length === 1
      // It says which events are told, and nothing of what they are.
      return isOfRoot && node.name.value === 'after' ? false : undefined
    },
    Variable: (node) => void variables.add(node.name.value),
  })
  documentCount += 1
  return { id: documentCount, variables }
}
