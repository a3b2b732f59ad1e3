import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { followRun, type ReplyEvent, shownText } from '../support/agent-reply.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import type { CallScript, Manner } from './provider.ts'
import type { FaultStage } from './stage.ts'
import { judge, type Verdict } from './verdict.ts'

/** What is asked, how it will be answered, and what its run comes to. Default: it completes, in one turn. */
export type Question = Manner & { scripts?: CallScript[]; ends?: string; turns?: number }

/** What a client was told of one run. */
export type Testimony = {
  question: string
  asked: Question
  conversationId: string
  runId: string
  /** The text that it shows. */
  text: string
  cursor: string | undefined
  /** The events that ended the stream. */
  ends: string[]
  lastHeardAt: number
  /** In milliseconds, from the acknowledgement or an event to the next event. */
  longestPause: number
  /** Resolves at the end of the stream, and when it is waited for no longer. */
  done: Promise<void>
}

/** A client that is told nothing within this time goes elsewhere, in milliseconds. */
const patience = 15_000

/** How long a message may take to be acknowledged, and a stream to end, in milliseconds. */
const longestAsk = 180_000
const longestRun = 300_000

/** Messages that are being sent at a time: more would measure the crowd and not the fault. */
const askingAtOnce = 4

/** Streams on one socket. */
const streamsPerSocket = 20

/** Between two sets of requests that only want to know whether they are answered, in milliseconds. */
const probeEvery = 250

/** Between two ticks of the timer by which the machine is judged, in milliseconds. */
const beat = 20

type Socket = { url: string; client: GraphQLClient; streams: number }

/**
 * Clients of the public API who ask, follow and come back with their cursor whenever a stream breaks, at whichever instance answers; and
 * who remember everything: each answer's time, each event, and in the end whether what they were told is what is stored.
 */
export class Witness {
  readonly testimonies: Testimony[] = []
  /** What no client should have been told. */
  readonly findings: string[] = []
  /** In milliseconds, of all requests since the probing began whose instance was not paused. */
  slowestAnswer = 0
  readonly stage: FaultStage
  readonly #name = randomBytes(4).toString('hex')
  readonly #urls: string[]
  readonly #clients = new Map<string, GraphQLClient>()
  readonly #sockets: Socket[] = []
  readonly #paused = new Set<string>()
  readonly #closing = new AbortController()
  /** When mutations succeeded, in order. */
  readonly #successes: number[] = []
  readonly #metronome: NodeJS.Timeout
  /** Each ends when the next message may be sent. */
  readonly #asking: Promise<void>[] = Array.from({ length: askingAtOnce }, () => Promise.resolve())
  #probing: Promise<unknown> = Promise.resolve()
  #turn = 0
  #lateness = 0
  #calmAnswer = 0

  constructor(stage: FaultStage) {
    this.stage = stage
    this.#urls = stage.apis.map(({ url }) => url)
    let due = performance.now() + beat
    this.#metronome = setInterval(() => {
      this.#lateness = Math.max(this.#lateness, performance.now() - due)
      due = performance.now() + beat
    }, beat)
  }

  /**
   * What a bound comes to on this machine, in milliseconds: a process that is not given the processor is late with everything. How long
   * an answer took before anything was broken, and how late this process's own timers were, is added.
   */
  allow(bound: number): number {
    return bound + this.#calmAnswer + 4 * this.#lateness
  }

  /** Asks until it is acknowledged, and follows the answer from then on. */
  ask(asked: Question = {}): Promise<Testimony> {
    const turn = this.#asking.shift() ?? Promise.resolve()
    const asking = turn.then(() => this.#ask(asked))
    this.#asking.push(
      asking.then(
        () => undefined,
        () => undefined,
      ),
    )
    return asking
  }

  async #ask(asked: Question): Promise<Testimony> {
    const question = `question ${this.testimonies.length + 1} of ${this.#name}-${randomBytes(4).toString('hex')}`
    this.stage.provider.expect(question, asked, ...(asked.scripts ?? []))
    const converse = { input: { title: question, idempotencyKey: `${question}-c`.replaceAll(' ', '-') } }
    const conversationId = await this.#mutate(createConversation, converse, (data) => data.createConversation.conversation?.id)
    const message = { input: { conversationId, content: question, idempotencyKey: `${question}-m`.replaceAll(' ', '-') } }
    const runId = await this.#mutate(sendMessage, message, (data) => data.sendMessage.run?.id)
    const testimony: Testimony = {
      ...{ question, asked, conversationId, runId, text: '', cursor: undefined, ends: [], longestPause: 0 },
      ...{ lastHeardAt: performance.now(), done: Promise.resolve() },
    }
    testimony.done = this.#follow(testimony)
    this.testimonies.push(testimony)
    return testimony
  }

  /** So many at the same time. */
  askAll(count: number, asked: (index: number) => Question = () => ({})): Promise<Testimony[]> {
    return Promise.all(Array.from({ length: count }, (_, index) => this.ask(asked(index))))
  }

  /** Asks so many, and resolves when a word of each answer was heard. */
  async stream(count: number, asked: (index: number) => Question = () => ({})): Promise<Testimony[]> {
    const testimonies = await this.askAll(count, asked)
    while (testimonies.some(({ text, ends }) => text === '' && ends.length === 0)) await delay(20)
    return testimonies
  }

  /** From now on, before anything is broken, each instance is asked something small again and again, be it answered or not. */
  startProbing(): void {
    this.#calmAnswer = this.slowestAnswer
    this.slowestAnswer = 0
    this.#probing = Promise.all(this.#urls.map((url) => this.#probe(url)))
  }

  /** Whoever does not answer here is not to blame. */
  async whilePaused<T>(url: string, work: () => Promise<T>): Promise<T> {
    this.#paused.add(url)
    try {
      return await work()
    } finally {
      // What was sent meanwhile is answered now.
      setTimeout(() => this.#paused.delete(url), patience)
    }
  }

  /** Resolves to how long after `since` a mutation succeeded, in milliseconds. */
  async recovered(since: number): Promise<number> {
    for (;;) {
      const first = this.#successes.find((at) => at > since)
      if (first !== undefined) return first - since
      if (performance.now() - since > longestAsk) throw new Error('Nothing succeeded any more.')
      await delay(20)
    }
  }

  /** Waits for the end of all that was asked, and compares. The witness asks nothing more. */
  async judge(): Promise<Verdict> {
    await Promise.all(this.testimonies.map(({ done }) => done))
    this.#closing.abort()
    await this.#probing
    return judge(this)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    clearInterval(this.#metronome)
    await this.#probing
    await Promise.allSettled(
      [...this.#clients.values(), ...this.#sockets.map(({ client }) => client)].map((client) => client.close()),
    )
  }

  async #mutate(
    query: string,
    variables: Record<string, unknown>,
    read: (data: Payloads) => string | undefined,
  ): Promise<string> {
    const deadline = performance.now() + longestAsk
    while (performance.now() < deadline) {
      const data = await this.#request(this.#nextUrl(), query, variables)
      const id = data && read(data)
      if (id) {
        this.#successes.push(performance.now())
        return id
      }
      if (data) throw new Error(`The stage refuses a message: ${JSON.stringify(data)}`)
      await delay(100, undefined, { signal: this.#closing.signal })
    }
    throw new Error('A message was not acknowledged within three minutes.')
  }

  /** Null when it was not served: there was nobody, or it was told to come back later. */
  async #request(url: string, query: string, variables: Record<string, unknown> = {}): Promise<Payloads | null> {
    const isPaused = () => this.#paused.has(url)
    const spared = isPaused()
    const startedAt = performance.now()
    const timed = () => {
      if (!spared && !isPaused()) this.slowestAnswer = Math.max(this.slowestAnswer, performance.now() - startedAt)
    }
    try {
      const { data, errors } = await this.#clientOf(url).request<Payloads>(query, variables, AbortSignal.timeout(patience))
      timed()
      if (!errors) return data
      const unexpected = errors.find(({ extensions }) => extensions?.['code'] !== 'SERVICE_UNAVAILABLE')
      if (unexpected) this.findings.push(`A request was answered with ${JSON.stringify(unexpected)}.`)
    } catch (error) {
      // Nobody there is an answer too, given by the system.
      if ((error as Error).name === 'TimeoutError') timed()
    }
    return null
  }

  async #follow(testimony: Testimony): Promise<void> {
    const deadline = performance.now() + longestRun
    while (testimony.ends.length === 0 && performance.now() < deadline && !this.#closing.signal.aborted) {
      const socket = this.#socket()
      socket.streams++
      try {
        for await (const event of followRun(socket.client, testimony.runId, testimony.cursor)) hear(testimony, event)
      } catch (error) {
        // A socket that broke says so by an event; what the platform says is an Error.
        const told = error instanceof Error ? error.message : ''
        if (told.startsWith('[{') && !told.includes('"SERVICE_UNAVAILABLE"')) {
          this.findings.push(`A stream ended with ${told}.`)
        }
      }
      socket.streams--
      if (testimony.ends.length === 0) await delay(100)
    }
  }

  async #probe(url: string): Promise<void> {
    const { signal } = this.#closing
    const under = new Set<Promise<unknown>>()
    for (let round = 0; !signal.aborted; round++) {
      // On a machine without time, questions must not pile up that are only there to be answered.
      if (under.size >= 2 * Math.ceil(3_000 / probeEvery)) await Promise.race(under)
      const idempotencyKey = `probe-${this.#name}-${randomBytes(6).toString('hex')}`
      const asking = (
        round % 2 === 0
          ? this.#request(url, 'query { conversations(first: 1) { edges { cursor } } }')
          : this.#request(url, createConversation, { input: { title: 'probe', idempotencyKey } }).then((data) => {
              if (data?.createConversation.conversation) this.#successes.push(performance.now())
            })
      ).finally(() => under.delete(asking))
      under.add(asking)
      await delay(probeEvery, undefined, { signal }).catch(() => undefined)
    }
    await Promise.all(under)
  }

  #nextUrl(): string {
    return this.#urls[this.#turn++ % this.#urls.length] ?? ''
  }

  #clientOf(url: string): GraphQLClient {
    const client = this.#clients.get(url) ?? graphqlClient(url, this.stage.tenants[0].memberKey)
    this.#clients.set(url, client)
    return client
  }

  #socket(): Socket {
    const url = this.#nextUrl()
    const open = this.#sockets.find((socket) => socket.url === url && socket.streams < streamsPerSocket)
    if (open) return open
    const socket = { url, client: graphqlClient(url, this.stage.tenants[0].memberKey, { pulseMs: 1_500 }), streams: 0 }
    this.#sockets.push(socket)
    return socket
  }
}

const ending = /^Run(Completed|Failed|Cancelled|Interrupted)$/

function hear(testimony: Testimony, event: ReplyEvent): void {
  const now = performance.now()
  testimony.longestPause = Math.max(testimony.longestPause, now - testimony.lastHeardAt)
  testimony.lastHeardAt = now
  testimony.cursor = event.cursor ?? testimony.cursor
  testimony.text = shownText([{ __typename: 'Snapshot', cursor: '', text: testimony.text }, event])
  if (ending.test(event.__typename)) testimony.ends.push(event.__typename)
}

type Payloads = { createConversation: { conversation?: { id: string } }; sendMessage: { run?: { id: string } } }

const createConversation = `mutation ($input: CreateConversationInput!) {
  createConversation(input: $input) { ... on CreateConversationPayload { conversation { id } } ... on Problem { message } }
}`
const sendMessage = `mutation ($input: SendMessageInput!) {
  sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { message } }
}`
