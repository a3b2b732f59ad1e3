import type { IncomingMessage, ServerResponse } from 'node:http'
import { createYoga } from 'graphql-yoga'
import type { Authenticator, Principal } from '../domain/authenticate.ts'
import type { Context } from '../schema/context.ts'
import { schema } from '../schema/index.ts'
import { bearer } from './credential.ts'
import { DocumentCache } from './document-cache.ts'
import type { ErrorMask } from './errors.ts'
import { useEventResponses } from './event-responses.ts'
import { useEngine } from './execution.ts'
import { graphiqlOptions, renderGraphiQL } from './graphiql.ts'
import type { Limits } from './limits.ts'
import { useStrictRequests } from './request.ts'
import type { Sessions } from './sessions.ts'

type Options = {
  authenticate: Authenticator
  sessions: Sessions
  mask: ErrorMask
  limits: Limits
  /** Origins whose pages may send requests, besides the server's own. */
  allowedOrigins: string[]
  /** Serves GraphiQL, introspection and suggestions. */
  development: boolean
}

/** What a transport hands to Yoga: HTTP its request and response, a socket how to find out who is at its other end, and whether it closed. */
export type ServerContext =
  | { req: IncomingMessage; res: ServerResponse }
  | { identify: () => Promise<Principal | null>; closed: AbortSignal }

type Caller = { credential: string | null; principal: Principal | null }

export type GraphQLHandler = ReturnType<typeof createGraphQL>

/** GraphQL over HTTP on /graphql, and the engine that sockets use as well. */
export function createGraphQL({ authenticate, sessions, mask, limits, allowedOrigins, development }: Options) {
  const callers = new WeakMap<Request, Caller>()
  return createYoga<ServerContext, Context>({
    schema,
    context: async (initial) => {
      if ('identify' in initial) return { principal: await initial.identify(), lastEventId: null, signal: initial.closed }
      const credential = bearer(initial.request.headers.get('authorization'))
      const principal = await authenticate(credential)
      callers.set(initial.request, { credential, principal })
      return { principal, lastEventId: initial.request.headers.get('last-event-id'), signal: initial.request.signal }
    },
    graphqlEndpoint: '/graphql',
    graphiql: development && graphiqlOptions,
    renderGraphiQL,
    landingPage: false,
    batching: false,
    multipart: false,
    maxRequestBodySize: false,
    cors: allowedOrigins.length > 0 && {
      origin: allowedOrigins,
      credentials: false,
      methods: ['GET', 'POST'],
      allowedHeaders: ['authorization', 'content-type', 'last-event-id'],
      exposedHeaders: ['retry-after', 'ratelimit', 'ratelimit-policy'],
    },
    logging: false,
    maskedErrors: { maskError: mask },
    parserAndValidationCache: { documentCache: new DocumentCache(500, 8_192), errorCache: new DocumentCache(100, 8_192) },
    plugins: [
      useStrictRequests(limits.bodyBytes),
      useEngine({ limits, development }),
      useEventResponses({
        keepAliveMs: limits.keepAliveMs,
        onOpen: (request, stream) => {
          const caller = callers.get(request)
          if (!caller?.principal) return stream.interrupt()
          stream.once(
            'close',
            sessions.watch(caller.credential, caller.principal, () => stream.interrupt()),
          )
        },
      }),
    ],
  })
}
