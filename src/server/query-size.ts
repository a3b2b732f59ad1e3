import { type DocumentNode, type FieldNode, type FragmentDefinitionNode, Kind, type SelectionSetNode } from 'graphql'

/** How large an operation is, before anything of it runs. */
export type QuerySize = {
  /** Levels of fields. */
  depth: number
  /** Fields once fragments are spread out; aliases count one by one. */
  fields: number
  /** Fields of the answer, if every page is as long as was asked for. */
  cost: number
  /** Fields of the operation itself. */
  rootFields: number
}

/** `paged` is what lies under `edges`: it counts as often as the page that the connection was asked for is long. */
type Part = { depth: number; fields: number; cost: number; paged: number }

const defaultPage = 20
const longestPage = 100

/**
 * The size of the largest operation of `document`. A fragment is measured once, so fragments that spread one another many
 * times cost no more to measure than to read. Introspection is not counted: its depth has a validation rule of its own.
 */
export function sizeOf(document: DocumentNode): QuerySize {
  const fragments = new Map<string, FragmentDefinitionNode>()
  for (const definition of document.definitions) {
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition)
  }
  const measured = new Map<string, Part>()

  const largest: QuerySize = { depth: 0, fields: 0, cost: 0, rootFields: 0 }
  for (const definition of document.definitions) {
    if (definition.kind !== Kind.OPERATION_DEFINITION) continue
    const part = measure(definition.selectionSet)
    largest.depth = Math.max(largest.depth, part.depth)
    largest.fields = Math.max(largest.fields, part.fields)
    largest.cost = Math.max(largest.cost, part.cost + part.paged * defaultPage)
    largest.rootFields = Math.max(largest.rootFields, countRootFields(definition.selectionSet, new Set()))
  }
  return largest

  function measure(selections: SelectionSetNode): Part {
    const total: Part = { depth: 0, fields: 0, cost: 0, paged: 0 }
    for (const selection of selections.selections) {
      const part =
        selection.kind === Kind.FIELD
          ? measureField(selection)
          : selection.kind === Kind.INLINE_FRAGMENT
            ? measure(selection.selectionSet)
            : measureFragment(selection.name.value)
      total.depth = Math.max(total.depth, part.depth)
      total.fields += part.fields
      total.cost += part.cost
      total.paged += part.paged
    }
    return total
  }

  function measureField(field: FieldNode): Part {
    const name = field.name.value
    if (!field.selectionSet || name === '__schema' || name === '__type') return { depth: 1, fields: 1, cost: 1, paged: 0 }
    const inner = measure(field.selectionSet)
    const cost = inner.cost + inner.paged * pageLength(field)
    const size = { depth: inner.depth + 1, fields: inner.fields + 1 }
    return name === 'edges' ? { ...size, cost: 0, paged: cost + 1 } : { ...size, cost: cost + 1, paged: 0 }
  }

  function measureFragment(name: string): Part {
    const known = measured.get(name)
    if (known) return known
    // While it is being measured it counts as nothing: validation refuses fragments that spread themselves.
    measured.set(name, { depth: 0, fields: 0, cost: 0, paged: 0 })
    const fragment = fragments.get(name)
    const part = fragment ? measure(fragment.selectionSet) : { depth: 0, fields: 0, cost: 0, paged: 0 }
    measured.set(name, part)
    return part
  }

  function countRootFields(selections: SelectionSetNode, seen: Set<string>): number {
    let count = 0
    for (const selection of selections.selections) {
      if (selection.kind === Kind.FIELD) count += 1
      else if (selection.kind === Kind.INLINE_FRAGMENT) count += countRootFields(selection.selectionSet, seen)
      else {
        const fragment = fragments.get(selection.name.value)
        // Spreading a fragment twice answers the same fields once.
        if (fragment && !seen.has(selection.name.value)) {
          seen.add(selection.name.value)
          count += countRootFields(fragment.selectionSet, seen)
        }
      }
    }
    return count
  }
}

/** How long a page the field asks for. A variable may turn out to be anything, so it counts as the longest. */
function pageLength(field: FieldNode): number {
  const size = field.arguments?.find(({ name }) => name.value === 'first' || name.value === 'last')?.value
  if (!size) return defaultPage
  return size.kind === Kind.INT ? Math.min(Number(size.value), longestPage) : longestPage
}
