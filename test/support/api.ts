import { type DocumentNode, print } from 'graphql'
import { type GraphQLClient, graphqlClient } from './graphql-client.ts'

/** A document as codegen types it. */
type TypedDocument<D, V> = DocumentNode & { __apiType?: (variables: V) => D }

type Variables<V> = V extends Record<string, never> ? [] : [variables: V]

type Answer<D> = {
  status: number
  headers: Headers
  data?: D | null
  errors?: { message: string; path?: (string | number)[]; extensions?: Record<string, unknown> }[]
}

/** A client of the public API whose operations are typed by their documents. */
export type Api = {
  /** The answer to an operation, whatever it is. */
  ask<D, V>(document: TypedDocument<D, V>, ...variables: Variables<V>): Promise<Answer<D>>
  /** The data of an operation that must succeed. */
  data<D, V>(document: TypedDocument<D, V>, ...variables: Variables<V>): Promise<D>
  /** The events of a subscription until it completes. */
  follow<D, V>(document: TypedDocument<D, V>, ...variables: Variables<V>): AsyncIterableIterator<D>
  client: GraphQLClient
}

export function apiClient(url: string, key: string): Api {
  const client = graphqlClient(url, key)
  return {
    ask: (document, ...[variables]) => client.request(print(document), variables as Record<string, unknown>),
    data: (document, ...[variables]) => client.data(print(document), variables as Record<string, unknown>),
    follow: (document, ...[variables]) => client.events(print(document), variables as Record<string, unknown>),
    client,
  }
}
