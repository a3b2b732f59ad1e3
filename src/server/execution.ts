import {
  createSourceEventStream,
  type DocumentNode,
  type ExecutionArgs,
  type ExecutionResult,
  execute,
  executeSubscriptionEvent,
  GraphQLError,
  type GraphQLSchema,
  mapSourceToResponseEvent,
  NoSchemaIntrospectionCustomRule,
  parse,
  validate,
  validateSubscriptionArgs,
} from 'graphql'
import type { Plugin } from 'graphql-yoga'
import type { Context } from '../schema/context.ts'
import { quotaNotes } from '../schema/quota-notes.ts'
import { badRequest } from './errors.ts'
import type { Limits } from './limits.ts'
import { sizeOf } from './query-size.ts'
import { quotaHints } from './quota-hints.ts'
import { SubscriptionSeats } from './subscription-seats.ts'

/** Under this key a result of a subscription has the id of its event, which SSE sends along. */
export const eventId = Symbol('event id')

export type EventResult = ExecutionResult & { [eventId]?: string }

type Options = { limits: Limits; development: boolean }

/** graphql-js as the engine: floods are refused before they are validated, subscriptions get a context per event. */
export function useEngine({ limits, development }: Options): Plugin {
  const subscribe = createSubscribe(new SubscriptionSeats(limits))
  return {
    onParse({ setParseFn }) {
      setParseFn((source: string) => parse(source, { maxTokens: limits.tokens }))
    },
    onValidate({ setValidationFn, addValidationRule }) {
      if (!development) addValidationRule(NoSchemaIntrospectionCustomRule)
      setValidationFn((schema: GraphQLSchema, document: DocumentNode, rules) => {
        const flood = refuseFlood(document, limits)
        return flood ? [flood] : validate(schema, document, rules, { hideSuggestions: !development, maxErrors: 20 }).map(recode)
      })
    },
    onExecute({ setExecuteFn }) {
      setExecuteFn(async (args: ExecutionArgs) => {
        const result = await execute({ ...args, hideSuggestions: !development })
        const http = quotaHints(quotaNotes(args.contextValue as Context))
        return http ? { ...result, extensions: { ...result.extensions, http } } : result
      })
    },
    onSubscribe({ setSubscribeFn }) {
      setSubscribeFn((args: ExecutionArgs) => subscribe({ ...args, hideSuggestions: !development }))
    },
  }
}

function refuseFlood(document: DocumentNode, limits: Limits): GraphQLError | null {
  const size = sizeOf(document)
  if (size.depth > limits.depth) return tooLarge(`is ${size.depth} levels deep; the limit is ${limits.depth}`)
  if (size.rootFields > limits.rootFields)
    return tooLarge(`has ${size.rootFields} root fields; the limit is ${limits.rootFields}`)
  if (size.fields > limits.fields) return tooLarge(`has ${size.fields} fields; the limit is ${limits.fields}`)
  if (size.cost > limits.cost) {
    return tooLarge(
      `asks for up to ${size.cost} fields, counting pages in full; the limit is ${limits.cost}. Ask for shorter pages`,
    )
  }
  return null
}

const tooLarge = (what: string) => badRequest(`The operation ${what}.`)

/** Validation errors go to the client as they are, so they get their code here. */
function recode(error: GraphQLError): GraphQLError {
  return new GraphQLError(error.message, { nodes: error.nodes, extensions: { code: 'BAD_USER_INPUT' } })
}

type Subscribed = Promise<AsyncIterableIterator<EventResult> | ExecutionResult>

/**
 * The engine's `subscribe`, with four differences: each event is executed in a context of its own, returning aborts the
 * source even while it waits for its next event, an error of the source ends the stream as its last result, and the stream
 * ends with its transport, whoever else forgets it.
 */
function createSubscribe(seats: SubscriptionSeats): (args: ExecutionArgs) => Subscribed {
  return async (args) => {
    const gone = new AbortController()
    const { principal, lastEventId, signal: left } = args.contextValue as Context
    const freshContext = (): Context => ({ principal, lastEventId, signal: gone.signal })

    const validated = validateSubscriptionArgs({ ...args, contextValue: freshContext() })
    if (!('schema' in validated)) return { errors: validated }
    // Taken before anything is awaited, or a crowd that comes at once would find it free.
    const leaveSeat = takeSeat(seats, principal)
    if (leaveSeat instanceof GraphQLError) return { errors: [leaveSeat] }
    const source = await Promise.resolve(createSourceEventStream(validated)).catch((error) => {
      leaveSeat()
      throw error
    })
    if (!(Symbol.asyncIterator in source)) {
      leaveSeat()
      return source
    }
    const results = mapSourceToResponseEvent(validated, source, async (event): Promise<EventResult> => {
      const result = await executeSubscriptionEvent({ ...event, contextValue: freshContext() })
      return { ...result, [eventId]: cursorOf(event.rootValue) }
    })

    let ended = false
    const end = () => {
      leaveSeat()
      ended = true
      left.removeEventListener('abort', leave)
      gone.abort()
    }
    const leave = () => void iterator.return?.()
    const iterator: AsyncIterableIterator<EventResult> = {
      [Symbol.asyncIterator]() {
        return iterator
      },
      async next() {
        if (ended) return { done: true, value: undefined }
        try {
          const step = await results.next()
          if (step.done) end()
          return step
        } catch (error) {
          // Whoever left is not told that the source ended for want of a listener.
          if (ended) return { done: true, value: undefined }
          end()
          return { done: false, value: { errors: [asGraphQLError(error)] } }
        }
      },
      async return() {
        end()
        await results.return(undefined)
        return { done: true, value: undefined }
      },
    }
    if (left.aborted) leave()
    else left.addEventListener('abort', leave)
    return iterator
  }
}

/** What gives the seat back, or why there is none. Who is no tenant takes none: every subscription refuses them. */
function takeSeat(seats: SubscriptionSeats, principal: Context['principal']): (() => void) | GraphQLError {
  try {
    return principal?.kind === 'tenant' ? seats.take(principal.scope.tenant.id) : () => undefined
  } catch (error) {
    return asGraphQLError(error)
  }
}

function cursorOf(event: unknown): string | undefined {
  return typeof event === 'object' && event !== null && 'cursor' in event ? String(event.cursor) : undefined
}

function asGraphQLError(error: unknown): GraphQLError {
  return error instanceof GraphQLError ? error : new GraphQLError('The stream broke.', { originalError: error as Error })
}
