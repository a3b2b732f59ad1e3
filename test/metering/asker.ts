import { setTimeout as delay } from 'node:timers/promises'
import { decodeId } from '../../src/schema/global-id.ts'
import { followRun } from '../support/agent-reply.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import type { Cut } from './cut.ts'

/** How long a message may take to be acknowledged, and a run to end, in milliseconds. */
const longestAsk = 180_000
const longestRun = 300_000

/** A client that is told nothing within this time goes elsewhere, in milliseconds. */
const patience = 15_000

const ending = /^Run(Completed|Failed|Cancelled|Interrupted)$/

/** One client with one question, who goes on at the next instance whenever one does not answer. */
export class Asker {
  readonly cut: Cut
  runId = ''
  /** The events that ended the stream. */
  readonly ends: string[] = []
  readonly #urls: readonly string[]
  readonly #key: string
  #turn: number
  #client: GraphQLClient
  /** With the next event that it hears, on a socket that is there. */
  #closing: { forGood: boolean } | null = null
  #hasLeft = false
  #acting: Promise<void> | null = null
  readonly #acknowledged = Promise.withResolvers<void>()

  constructor(cut: Cut, urls: readonly string[], key: string) {
    this.cut = cut
    this.#urls = urls
    this.#key = key
    this.#turn = cut.number
    this.#client = graphqlClient(this.url, key)
  }

  /** Of the instance that it is at. */
  get url(): string {
    return this.#urls[this.#turn % this.#urls.length] ?? ''
  }

  /** The run as the database names it. */
  get storedId(): string {
    return decodeId('Run', this.runId) ?? ''
  }

  /** Asks, and follows the answer to its end, or until it leaves. */
  async ask(): Promise<void> {
    try {
      const key = this.cut.question.slice(0, 40).replaceAll(/[^\w]+/g, '-')
      const conversation = { title: `Cut ${this.cut.number}`, idempotencyKey: `c-${key}` }
      const conversationId = await this.#mutate(createConversation, conversation, (data) => data.createConversation?.conversation)
      const message = { conversationId, content: this.cut.question, idempotencyKey: `m-${key}` }
      this.runId = await this.#mutate(sendMessage, message, (data) => data.sendMessage?.run)
      this.#acknowledged.resolve()
      await this.#follow()
      await this.#acting
    } finally {
      await this.#close()
    }
  }

  /** As a client does whose network is gone. */
  closeSocket(how: { forGood: boolean }): void {
    this.#closing = how
  }

  cancel(): void {
    this.#acting = this.#cancel()
    // Whoever asks waits for it, and is told.
    this.#acting.catch(() => undefined)
  }

  async #cancel(): Promise<void> {
    await this.#acknowledged.promise
    await this.#mutate(cancelRun, { runId: this.runId }, (data) => data.cancelRun?.run)
  }

  async #follow(): Promise<void> {
    let cursor: string | undefined
    for (const deadline = performance.now() + longestRun; performance.now() < deadline; await delay(100)) {
      try {
        for await (const event of followRun(this.#client, this.runId, cursor)) {
          cursor = event.cursor ?? cursor
          if (ending.test(event.__typename)) this.ends.push(event.__typename)
          if (!this.#closing) continue
          this.#hasLeft = this.#closing.forGood
          this.#closing = null
          this.#client.socket.terminate()
        }
      } catch {
        // The socket broke, or nobody is there.
      }
      if (this.ends.length > 0 || this.#hasLeft) return
      await this.#goElsewhere()
    }
  }

  async #goElsewhere(): Promise<void> {
    this.#turn++
    await this.#close()
    this.#client = graphqlClient(this.url, this.#key)
  }

  /** A socket that broke says so once more. */
  async #close(): Promise<void> {
    await this.#client.close().catch(() => undefined)
  }

  /** The id of what was made. Sends it again while it is not known whether it was done. */
  async #mutate(
    query: string,
    input: Record<string, unknown>,
    read: (data: Payloads) => { id: string } | undefined,
  ): Promise<string> {
    for (const deadline = performance.now() + longestAsk; performance.now() < deadline; await delay(200)) {
      const answer = await this.#client.request<Payloads>(query, { input }, AbortSignal.timeout(patience)).catch(() => null)
      const made = answer?.data && read(answer.data)
      if (made) return made.id
      const isBusy = answer?.errors?.some(({ extensions }) => extensions?.['code'] === 'SERVICE_UNAVAILABLE')
      if (answer && !isBusy) throw new Error(`A message is refused: ${JSON.stringify(answer.errors ?? answer.data)}`)
      if (!answer) await this.#goElsewhere()
    }
    throw new Error('A mutation was not answered within three minutes.')
  }
}

type Payloads = {
  createConversation?: { conversation?: { id: string } }
  sendMessage?: { run?: { id: string } }
  cancelRun?: { run?: { id: string } }
}

const createConversation = `mutation ($input: CreateConversationInput!) {
  createConversation(input: $input) { ... on CreateConversationPayload { conversation { id } } ... on Problem { message } }
}`
const sendMessage = `mutation ($input: SendMessageInput!) {
  sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { message } }
}`
const cancelRun = `mutation ($input: CancelRunInput!) {
  cancelRun(input: $input) { ... on CancelRunPayload { run { id } } ... on Problem { message } }
}`
