import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type Client, createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { flawsOf, questionFor } from './counted-text.ts'

/** What readers did since they were last asked. */
export type ReadersCount = {
  /** Tokens that arrived, events that brought them, runs that ended in order. */
  tokens: number
  events: number
  runs: number
  /** From sending a message to its first token, in milliseconds, and the longest wait between two events of a run. */
  firstTokens: number[]
  longestPause: number
  /** Sockets that closed before their run ended, and questions that had to be put again. */
  reconnects: number
  repeats: number
  /** Runs that were begun anew by another worker. */
  resets: number
  lost: number
  doubled: number
  gaps: number
  /** Answers that are not as they are stored, and runs that did not end with an answer. */
  different: number
  failed: number
  /** Answers that had not come to an end a minute after the last question. */
  unfinished: number
  /** Why a question had to be put again, or a stream broke, the last time. */
  problem: string | null
}

export type ReadersOptions = {
  urls: string[]
  /** One reader for each. */
  keys: string[]
  /** Tokens of an answer, on average: each is between half of it and one and a half times as much. */
  tokens: number
}

type Event = { __typename: string; cursor: string; text?: string; message?: { content: string } }

const agentReply = `subscription ($runId: ID!, $after: String) { agentReply(runId: $runId, after: $after) {
  __typename ... on TextDelta { cursor text } ... on Snapshot { cursor text } ... on StreamReset { cursor text }
  ... on RunCompleted { cursor message { content } } ... on RunFailed { cursor failure { code } }
  ... on RunCancelled { cursor } ... on RunInterrupted { cursor } ... on Lagged { cursor: resumeAfter }
} }`

const newConversation = `mutation ($input: CreateConversationInput!) {
  createConversation(input: $input) { ... on CreateConversationPayload { conversation { id } } ... on Problem { message } } }`

const newMessage = `mutation ($input: SendMessageInput!) {
  sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { message } } }`

/** What a reader has of an answer. `last` is when the last event came. */
type Answer = { shown: string; cursor: string | undefined; last: number | null; ending: Event | null }

/** Messages of one conversation. */
const conversationLength = 10

/** How long the last answers are waited for, in milliseconds. */
const longestEnd = 60_000

/** The pause before something is tried again, in milliseconds. */
const pause = 200

/**
 * Readers of one stream each, in a closed loop: each asks, follows the answer over a socket of its own, checks it and asks again.
 * When its connection breaks, it goes on at the next API from its cursor.
 */
export class Readers {
  readonly #options: ReadersOptions
  readonly #loops: Promise<void>[]
  readonly #abandoned = new AbortController()
  #ending = false
  /** Readers that have not ended. */
  #reading: number
  #count = noCount()

  constructor(options: ReadersOptions) {
    this.#options = options
    this.#reading = options.keys.length
    this.#loops = options.keys.map((key, index) => this.#read(key, index).finally(() => this.#reading--))
  }

  /** What was done since this was last called. */
  take(): ReadersCount {
    const taken = this.#count
    this.#count = noCount()
    return taken
  }

  /** Resolves once every answer that was begun has been read, after a minute in any case: then some are `unfinished`. */
  async end(): Promise<void> {
    this.#ending = true
    const given = delay(longestEnd, undefined, { ref: false }).then(() => this.#abandoned.abort())
    await Promise.race([Promise.all(this.#loops), given])
    this.#count.unfinished += this.#reading
  }

  async #read(key: string, index: number): Promise<void> {
    const { tokens, urls } = this.#options
    // Not in step with each other.
    await delay((index / this.#options.keys.length) * 2_000)
    const api = new Api(urls, index, key)
    let conversationId = ''
    for (let asked = 0; !this.#ending; asked++) {
      if (asked % conversationLength === 0) {
        const input = { title: 'Counting', idempotencyKey: randomUUID() }
        const created = await this.#persist<{ createConversation: { conversation: { id: string } } }>(api, newConversation, input)
        conversationId = created.createConversation.conversation.id
      }
      const length = Math.max(1, Math.round(tokens * (0.5 + Math.random())))
      const input = { conversationId, content: questionFor(length), idempotencyKey: randomUUID() }
      const askedAt = performance.now()
      const sent = await this.#persist<{ sendMessage: { run: { id: string } } }>(api, newMessage, input)
      await this.#follow(api, sent.sendMessage.run.id, length, askedAt)
    }
    await api.close()
  }

  /** A mutation until it is answered: its idempotency key makes repeating it harmless. */
  async #persist<T>(api: Api, mutation: string, input: object): Promise<T> {
    for (;;) {
      const answer = await api.mutate<T>(mutation, { input }).catch((error: unknown) => {
        this.#count.problem = describe(error)
      })
      if (answer) return answer
      this.#abandoned.signal.throwIfAborted()
      this.#count.repeats++
      api.goOn()
      await delay(pause)
    }
  }

  async #follow(api: Api, runId: string, tokens: number, askedAt: number): Promise<void> {
    const answer: Answer = { shown: '', cursor: undefined, last: null, ending: null }
    for (;;) {
      await api
        .follow({ runId, after: answer.cursor }, (event) => this.#show(event, answer, askedAt))
        .catch((error: unknown) => {
          this.#count.problem = describe(error)
        })
      if (answer.ending) break
      this.#abandoned.signal.throwIfAborted()
      this.#count.reconnects++
      api.goOn()
      await delay(pause)
    }
    this.#judge(answer.ending, answer.shown, tokens)
  }

  #show(event: Event, answer: Answer, askedAt: number): void {
    const { __typename: type, cursor, text } = event
    const now = performance.now()
    if (answer.last === null) this.#count.firstTokens.push(now - askedAt)
    else this.#count.longestPause = Math.max(this.#count.longestPause, now - answer.last)
    answer.last = now
    answer.cursor = cursor
    this.#count.events++
    if (type === 'TextDelta' && text !== undefined) {
      this.#count.tokens += wordsIn(text)
      answer.shown += text
    } else if (text !== undefined) {
      if (type === 'StreamReset') this.#count.resets++
      this.#count.tokens += Math.max(0, wordsIn(text) - wordsIn(answer.shown))
      answer.shown = text
    }
    if (/^Run(Completed|Failed|Cancelled|Interrupted)$/.test(type)) answer.ending = event
  }

  #judge({ message }: Event, shown: string, tokens: number): void {
    if (!message) {
      this.#count.failed++
      return
    }
    const { lost, doubled, gaps } = flawsOf(shown, tokens)
    this.#count.runs++
    this.#count.lost += lost
    this.#count.doubled += doubled
    this.#count.gaps += gaps
    if (shown !== message.content) this.#count.different++
  }
}

/** One end user at one of the APIs. */
class Api {
  readonly #urls: string[]
  readonly #authorization: string
  #index: number
  #socket: Client | null = null

  constructor(urls: string[], index: number, key: string) {
    this.#urls = urls
    this.#index = index
    this.#authorization = `Bearer ${key}`
  }

  /** Turns to the next API. */
  goOn(): void {
    void this.close()
    this.#index++
  }

  /** Throws unless the mutation was done. */
  async mutate<T>(query: string, variables: object): Promise<T> {
    const response = await fetch(`${this.#url()}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: this.#authorization },
      body: JSON.stringify({ query, variables }),
      signal: AbortSignal.timeout(10_000),
    })
    const { data, errors } = (await response.json()) as { data?: Record<string, { message?: string }>; errors?: unknown[] }
    const refusal = errors?.[0] ?? Object.values(data ?? {})[0]?.message
    if (!data || refusal) throw new Error(JSON.stringify(refusal))
    return data as T
  }

  /** Until the stream ends. Throws when the socket does first. */
  follow(variables: { runId: string; after: string | undefined }, show: (event: Event) => void): Promise<void> {
    this.#socket ??= createClient({
      url: `${this.#url().replace(/^http/, 'ws')}/graphql`,
      webSocketImpl: WebSocket,
      connectionParams: { authorization: this.#authorization },
      retryAttempts: 0,
      lazyCloseTimeout: 5_000,
      onNonLazyError: () => undefined,
    })
    const socket = this.#socket
    return new Promise((resolve, reject) => {
      socket.subscribe<{ agentReply: Event }>(
        { query: agentReply, variables },
        {
          next: ({ data, errors }) => (data ? show(data.agentReply) : reject(errors)),
          error: reject,
          complete: resolve,
        },
      )
    })
  }

  async close(): Promise<void> {
    const socket = this.#socket
    this.#socket = null
    await socket?.dispose()
  }

  #url(): string {
    return this.#urls[this.#index % this.#urls.length] ?? ''
  }
}

/** An error, the errors of a GraphQL result, or how a socket closed. */
function describe(error: unknown): string {
  return error instanceof Error ? error.message : JSON.stringify(error)
}

function wordsIn(text: string): number {
  let words = 0
  for (let index = text.indexOf(' '); index !== -1; index = text.indexOf(' ', index + 1)) words++
  return words
}

function noCount(): ReadersCount {
  return {
    ...{ tokens: 0, events: 0, runs: 0, firstTokens: [], longestPause: 0 },
    ...{
      reconnects: 0,
      repeats: 0,
      resets: 0,
      lost: 0,
      doubled: 0,
      gaps: 0,
      different: 0,
      failed: 0,
      unfinished: 0,
      problem: null,
    },
  }
}
