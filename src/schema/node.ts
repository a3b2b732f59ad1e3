import { brandWithType } from '@pothos/core'
import { builder } from './builder.ts'
import { type Context, refusal } from './context.ts'
import { encodeId, type NodeType, parseId } from './global-id.ts'

/** What the row behind a node has. */
type Row = { id: string }

export const Node = builder.interfaceRef<Row>('Node').implement({
  description: 'Anything that has an id of its own and can be read again by it.',
  fields: (t) => ({
    id: t.id({ description: 'Opaque, unique over all types, and stable. Knowing an id gives no access to what it names.' }),
  }),
})

type NodeAccess = Partial<Record<'endUser' | 'member' | 'admin' | 'operator', true>>

type NodeLoader = { authScopes: NodeAccess; load: (context: Context, uuid: string) => Promise<Row | null> }

const loaders = new Map<NodeType, NodeLoader>()

/** Lets `Query.node` find rows of `type`. `authScopes` says who may ask for one, whether or not it exists. */
export function resolveNodesOf(type: NodeType, loader: NodeLoader): void {
  loaders.set(type, loader)
}

/** The options of the field `id` of an object type that implements Node. */
export function idField(type: NodeType) {
  return {
    description: `The global id of this ${type}.`,
    resolve: (row: Row) => encodeId(type, row.id),
  }
}

builder.queryField('node', (t) =>
  t.field({
    type: Node,
    nullable: true,
    description:
      'Anything by its id, under the same rules as everywhere else. Null when there is no such thing here; FORBIDDEN when your role may not read things of that type.',
    authScopes: { endUser: true, operator: true },
    args: { id: t.arg.id({ required: true, description: 'The global id.' }) },
    resolve: async (_root, args, context) => {
      const id = parseId(args.id)
      const nodes = id && loaders.get(id.type)
      if (!nodes) return null
      await builder.runAuthScopes(context, nodes.authScopes, () => refusal(context))
      const row = await nodes.load(context, id.uuid)
      if (row) brandWithType(row, id.type as never)
      return row
    },
  }),
)
