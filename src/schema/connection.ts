import type { ArgBuilder, ObjectRef } from '@pothos/core'
import type { Page } from '../domain/page.ts'
import { builder } from './builder.ts'

type Types = (typeof builder)['$inferSchemaTypes']

/** Whoever may read a list at all may read how it is cut into pages: the nodes guard themselves. */
const readers = { endUser: true, operator: true } as const

const PageInfo = builder.objectRef<Page<unknown>['pageInfo']>('PageInfo').implement({
  description: 'Where a page lies in its list.',
  authScopes: readers,
  fields: (t) => ({
    hasNextPage: t.exposeBoolean('hasNextPage', { description: 'Whether the list goes on after this page.' }),
    hasPreviousPage: t.exposeBoolean('hasPreviousPage', { description: 'Whether the list has something before this page.' }),
    startCursor: t.exposeString('startCursor', {
      nullable: true,
      description: 'Cursor of the first edge. Null when the page is empty.',
    }),
    endCursor: t.exposeString('endCursor', {
      nullable: true,
      description: 'Cursor of the last edge. Null when the page is empty.',
    }),
  }),
})

/** The connection type of a node type, after the Relay specification. `noun` is the plural, for the descriptions. */
export function connectionOf<T>(node: ObjectRef<Types, T>, noun: string) {
  const Edge = builder.objectRef<Page<T>['edges'][number]>(`${node.name}Edge`).implement({
    description: `One of the ${noun} in a page, with its place in the list.`,
    authScopes: readers,
    fields: (t) => ({
      cursor: t.exposeString('cursor', { description: 'Place in the list, for `after` and `before`. Opaque.' }),
      node: t.field({ type: node, description: `The ${node.name} itself.`, resolve: (edge) => edge.node as never }),
    }),
  })
  return builder.objectRef<Page<T>>(`${node.name}Connection`).implement({
    description: `A page of ${noun}.`,
    authScopes: readers,
    fields: (t) => ({
      edges: t.field({ type: [Edge], description: `The ${noun} of this page, in order.`, resolve: (page) => page.edges }),
      pageInfo: t.field({ type: PageInfo, description: 'Where this page lies in the list.', resolve: (page) => page.pageInfo }),
    }),
  })
}

/** The arguments of a connection: forwards by `first` and `after`, backwards by `last` and `before`. */
export function pageArgs(arg: ArgBuilder<Types>) {
  return {
    first: arg.int({ description: 'How many, from the start or after `after`: 0 to 100. Default 20.' }),
    after: arg.string({ description: 'Only what comes after this cursor.' }),
    last: arg.int({ description: 'How many, from the end or before `before`: 0 to 100. Not together with `first`.' }),
    before: arg.string({ description: 'Only what comes before this cursor.' }),
  }
}
