import {
  createSourceEventStream,
  type DocumentNode,
  type ExecutionArgs,
  type ExecutionResult,
  execute,
  executeSubscriptionEvent,
  GraphQLError,
  type GraphQLSchema,
  NoSchemaIntrospectionCustomRule,
  parse,
  validate,
  validateSubscriptionArgs,
} from 'graphql'
import type { Plugin } from 'graphql-yoga'
import type { Context } from '../schema/context.ts'
import { quotaNotes } from '../schema/quota-notes.ts'
import { before } from './deadline.ts'
import { badRequest } from './errors.ts'
import type { Limits } from './limits.ts'
import type { Metrics } from './metrics.ts'
import { sizeOf } from './query-size.ts'
import { quotaHints } from './quota-hints.ts'
import { type EventResult, SharedResults, type SharedText, sharingKey, written } from './shared-results.ts'
import { SubscriptionSeats } from './subscription-seats.ts'
import { TextTemplate } from './text-template.ts'

type Options = { limits: Limits; metrics: Metrics | null; development: boolean }

/** graphql-js as the engine: floods are refused before they are validated, subscriptions get a context per event. */
export function useEngine({ limits, metrics, development }: Options): Plugin {
  const seats = new SubscriptionSeats(limits)
  metrics?.watchStreams(() => seats.taken)
  const subscribe = createSubscribe(seats, new SharedResults())
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
        const result = await answered(args, execute({ ...args, hideSuggestions: !development }))
        const notes = quotaNotes(args.contextValue as Context)
        for (const { refusal } of notes.refusals) metrics?.refused(refusal.limit)
        const http = quotaHints(notes)
        return http ? { ...result, extensions: { ...result.extensions, http } } : result
      })
    },
    onSubscribe({ setSubscribeFn }) {
      setSubscribeFn((args: ExecutionArgs) => subscribe({ ...args, hideSuggestions: !development }))
    },
  }
}

/** The result, or that there is none yet when it is due. */
async function answered(
  { contextValue }: ExecutionArgs,
  result: ExecutionResult | PromiseLike<ExecutionResult>,
): Promise<ExecutionResult> {
  const { principal, answerBy } = contextValue as Context
  // Erasing a tenant, say, is worth waiting for.
  if (principal?.kind === 'operator') return result
  return before(answerBy, Promise.resolve(result)).catch((error) => ({ errors: [asGraphQLError(error)] }))
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

/**
 * Where results of a subscription that are written already go without being asked for: the root value of whoever can send them so. What it
 * answers, if anything, is awaited before the next.
 */
export type Outlet = { send: (json: SharedText) => Promise<void> | null }

/** Why a subscription's source is aborted. Made once: without a reason each abort makes an error, and records where. */
const over = new Error('The subscription has ended.')

/** What a source of events may have besides: see `followRun`. */
type Takeable = { take(): object | null; arrival(): Promise<void> | null }

type Subscribed = Promise<AsyncIterableIterator<EventResult> | ExecutionResult>

/**
 * The engine's `subscribe`, with six differences: an event is executed once for all who would get the same, each time in a context
 * of its own, returning aborts the source even while it waits for its next event, an error of the source ends the stream as its last
 * result, the stream ends with its transport, whoever else forgets it, and with an outlet only those results are there to be asked for
 * that are not written.
 */
function createSubscribe(seats: SubscriptionSeats, results: SharedResults): (args: ExecutionArgs) => Subscribed {
  return async (args) => {
    const gone = new AbortController()
    const { principal, lastEventId, answerBy, signal: left } = args.contextValue as Context
    const freshContext = (): Context => ({ principal, lastEventId, answerBy, signal: gone.signal })

    const validated = validateSubscriptionArgs({ ...args, contextValue: freshContext() })
    if (!('schema' in validated)) return { errors: validated }
    // Taken before anything is awaited, or a crowd that comes at once would find it free.
    const leaveSeat = takeSeat(seats, principal)
    if (leaveSeat instanceof GraphQLError) return { errors: [leaveSeat] }
    const source = await before(answerBy, Promise.resolve(createSourceEventStream(validated))).catch((error) => {
      leaveSeat()
      throw error
    })
    if (!(Symbol.asyncIterator in source)) {
      leaveSeat()
      return source
    }
    const events: AsyncIterator<unknown> & Partial<Takeable> = source[Symbol.asyncIterator]()
    const { send = null } = (args.rootValue ?? {}) as Partial<Outlet>
    const key = sharingKey(args, principal)
    const texts = new TextTemplate((event) =>
      executeSubscriptionEvent({ ...validated, rootValue: event, contextValue: freshContext() }),
    )

    let ended = false
    const end = () => {
      leaveSeat()
      ended = true
      left.removeEventListener('abort', leave)
      gone.abort(over)
    }
    const leave = () => void iterator.return?.()
    const iterator: AsyncIterableIterator<EventResult> = {
      [Symbol.asyncIterator]() {
        return iterator
      },
      async next() {
        try {
          while (!ended) {
            let event: unknown = events.take?.() ?? null
            if (event === null) {
              const arrival = events.arrival?.()
              if (arrival) {
                await arrival
                continue
              }
              const step = await events.next()
              if (step.done || ended) break
              event = step.value
            }
            const made = results.of(event, key, () => texts.resultOf(event))
            const result = made instanceof Promise ? await made : made
            const json = result[written]
            if (!send || json === undefined) return { done: false, value: result }
            const room = send(json)
            if (room) await room
          }
          end()
          return { done: true, value: undefined }
        } catch (error) {
          // Whoever left is not told that the source ended for want of a listener.
          if (ended) return { done: true, value: undefined }
          end()
          return { done: false, value: { errors: [asGraphQLError(error)] } }
        }
      },
      async return() {
        end()
        await events.return?.()
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

function asGraphQLError(error: unknown): GraphQLError {
  return error instanceof GraphQLError ? error : new GraphQLError('The stream broke.', { originalError: error as Error })
}
