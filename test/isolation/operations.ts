import {
  type GraphQLArgument,
  type GraphQLField,
  type GraphQLInputField,
  type GraphQLInputType,
  type GraphQLNamedInputType,
  type GraphQLObjectType,
  type GraphQLOutputType,
  getNamedType,
  getNullableType,
  isAbstractType,
  isInputObjectType,
  isListType,
  isNonNullType,
  isObjectType,
  isRequiredArgument,
} from 'graphql'
import { schema } from '../../src/schema/index.ts'

export type OperationKind = 'query' | 'mutation' | 'subscription'

/** Something that the API can be asked, as the schema says. */
export type Operation = { kind: OperationKind; name: string; field: GraphQLField<unknown, unknown>; places: ArgumentPlace[] }

/** Where an argument takes a value that has no fields of its own. */
export type ArgumentPlace = {
  /** Its schema coordinate, as in `Query.run(id:)` and `CancelRunInput.runId`. */
  coordinate: string
  /** From the operation's variables down. */
  path: string[]
  name: string
  type: GraphQLNamedInputType
  list: boolean
  /** Whether no call is valid without it. */
  required: boolean
}

const roots: [OperationKind, GraphQLObjectType | null | undefined][] = [
  ['query', schema.getQueryType()],
  ['mutation', schema.getMutationType()],
  ['subscription', schema.getSubscriptionType()],
]

/** Every operation of the API, found by introspection. */
export const operations: readonly Operation[] = roots.flatMap(([kind, root]) =>
  Object.values(root?.getFields() ?? {}).map((field) => ({
    kind,
    name: field.name,
    field,
    places: field.args.flatMap((arg) => placesIn(arg, `${root}.${field.name}(${arg.name}:)`)),
  })),
)

/** The types whose objects have an id. */
export const typesWithId: readonly string[] = objectTypes()
  .filter((type) => isId(type.getFields()['id']?.type))
  .map(({ name }) => name)

/** Ids that are taken below the operations' own arguments, where the matrix puts none. */
export const nestedIds: readonly string[] = objectTypes()
  .filter((type) => !roots.some(([, root]) => root === type))
  .flatMap((type) =>
    Object.values(type.getFields()).flatMap((field) =>
      field.args
        .flatMap((arg) => placesIn(arg, `${type}.${field.name}(${arg.name}:)`))
        .filter(({ type }) => type.name === 'ID')
        .map(({ coordinate }) => coordinate),
    ),
  )

/** A document that asks the operation, its arguments as variables, for every field as far as `depth` levels down. */
export function documentOf({ kind, name, field }: Operation, depth: number): string {
  const variables = field.args.map((arg) => `$${arg.name}: ${arg.type}`).join(', ')
  const args = field.args.map((arg) => `${arg.name}: $${arg.name}`).join(', ')
  return `${kind}${variables && ` (${variables})`} { ${name}${args && `(${args})`}${selectionOf(field.type, depth)} }`
}

/** The variables with `value` put at the place. */
export function withValue(variables: object, { path, list }: ArgumentPlace, value: unknown): Record<string, unknown> {
  const [name = '', ...below] = path
  const record = variables as Record<string, unknown>
  if (below.length === 0) return { ...record, [name]: list ? [value] : value }
  const inner = { path: below, list } as ArgumentPlace
  return { ...record, [name]: withValue((record[name] ?? {}) as object, inner, value) }
}

/** All fields of the type, with a space before; nothing for a type without fields. */
function selectionOf(type: GraphQLOutputType, depth: number): string {
  const named = getNamedType(type)
  if (isObjectType(named)) return ` { __typename ${fieldsOf(named, depth, '')} }`
  if (!isAbstractType(named)) return ''
  // Members may give one name to fields of different types, which one selection can only hold under different aliases.
  const members = schema.getPossibleTypes(named).map((member) => `... on ${member} { ${fieldsOf(member, depth, `${member}_`)} }`)
  return ` { __typename ${members.join(' ')} }`
}

function fieldsOf(type: GraphQLObjectType, depth: number, prefix: string): string {
  const fields = Object.values(type.getFields()).filter(
    (field) => !field.args.some(isRequiredArgument) && (depth > 1 || !hasFields(field.type)),
  )
  const selections = fields.map(({ name, type: of }) => `${prefix && `${prefix}${name}: `}${name}${selectionOf(of, depth - 1)}`)
  return ['__typename', ...selections].join(' ')
}

function hasFields(type: GraphQLOutputType): boolean {
  const named = getNamedType(type)
  return isObjectType(named) || isAbstractType(named)
}

function placesIn(
  argument: GraphQLArgument | GraphQLInputField,
  coordinate: string,
  above = { path: [] as string[], types: [] as GraphQLNamedInputType[], required: true },
): ArgumentPlace[] {
  const { name, type } = argument
  const named = getNamedType(type)
  const path = [...above.path, name]
  const required = above.required && isNonNullType(type) && argument.default === undefined
  if (!isInputObjectType(named)) return [{ coordinate, path, name, type: named, list: isList(type), required }]
  // An input that holds itself, as filters may, is walked once.
  if (above.types.includes(named)) return []
  return Object.values(named.getFields()).flatMap((field) =>
    placesIn(field, `${named}.${field.name}`, { path, types: [...above.types, named], required }),
  )
}

function isList(type: GraphQLInputType): boolean {
  return isListType(getNullableType(type))
}

function isId(type: GraphQLOutputType | undefined): boolean {
  return type !== undefined && getNamedType(type).name === 'ID'
}

function objectTypes(): GraphQLObjectType[] {
  return Object.values(schema.getTypeMap()).filter(
    (type) => isObjectType(type) && !type.name.startsWith('__'),
  ) as GraphQLObjectType[]
}
