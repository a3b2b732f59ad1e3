import { expect } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { encodeId, type NodeType } from '../../src/schema/global-id.ts'
import type { Api } from '../support/api.ts'
import type { Aim, Step } from './steps.ts'

/** A thing that somebody has, an actor or a tenant. Its id is no secret here: everybody tries everybody's. */
export type Thing = { type: NodeType; id: string; owner: string }

type Said = { messageId: string; words: string }

type Conversation = { title: string; runs: Map<string, Said> }

type Result = { __typename: string; [field: string]: unknown }

export type ActorOptions = {
  /** Is in everything that the actor says. */
  name: string
  api: Api
  /** Null for the tenant's admin. */
  userId: string | null
  /** The tenant's name, and what it has from the beginning. */
  tenant: string
  own: readonly Thing[]
}

/**
 * One who acts through the API and knows what must come of it. The actor's own steps alone decide that: whatever others do
 * meanwhile, in other tenants or beside an end user, must make no difference.
 */
export class Actor {
  readonly name: string
  readonly #options: ActorOptions
  readonly #conversations = new Map<string, Conversation>()
  /** What was done under an idempotency key: the input, and what came of it. */
  readonly #done = new Map<string, { input: string; id: string }>()
  readonly #keys = new Map<string, { revoked: boolean }>()
  readonly #configs = new Set<string>()
  #temperature: number | null = null

  constructor(options: ActorOptions) {
    this.name = options.name
    this.#options = options
    for (const { type, id } of options.own) if (type === 'ApiKey') this.#keys.set(id, { revoked: false })
  }

  /** Takes the step among `things`, and expects what must come of it. Resolves to what the actor has since. */
  async take(step: Step, things: readonly Thing[]): Promise<Thing[]> {
    switch (step.does) {
      case 'create':
        return this.#create(step)
      case 'rename':
        return this.#rename(this.#find('Conversation', step.aim, things), step.title)
      case 'delete':
        return this.#delete(this.#find('Conversation', step.aim, things))
      case 'say':
        return this.#say(this.#find('Conversation', step.aim, things), step)
      case 'cancel':
        return this.#cancel(this.#find('Run', step.aim, things))
      case 'follow':
        return this.#follow(this.#find('Run', step.aim, things))
      case 'configure':
        return this.#configure(this.#find('Agent', step.aim, things), step.temperature)
      case 'issueKey':
        return this.#issueKey(step.name)
      case 'revokeKey':
        return this.#revokeKey(this.#find('ApiKey', step.aim, things))
      case 'look':
        return this.#look(this.#findAny(step.aim, things))
      case 'list':
        return this.list()
      default:
        return step satisfies never
    }
  }

  /** Expects to see all that is the actor's, and nothing else. */
  async list(): Promise<Thing[]> {
    const { userId } = this.#options
    const page = 'edges { node { id'
    const data = await this.#data<{
      conversations: { edges: { node: object }[] }
      runs: { edges: { node: object }[] }
    }>(`{ conversations(first: 100) { ${page} title userId } } } runs(first: 100) { ${page} conversation { id } } } } }`)
    const conversations = [...this.#conversations].map(([id, { title }]) => ({ id, title, userId }))
    const runs = [...this.#conversations].flatMap(([id, conversation]) =>
      [...conversation.runs.keys()].map((run) => ({ id: run, conversation: { id } })),
    )
    expect(byId(data.conversations.edges.map(({ node }) => node))).toEqual(byId(conversations))
    expect(byId(data.runs.edges.map(({ node }) => node))).toEqual(byId(runs))
    if (userId !== null) return []

    const own = await this.#data<{ apiKeys: { id: string; revokedAt: string | null }[]; agents: object[]; agentConfig: object }>(
      '{ apiKeys { id revokedAt } agents { id } agentConfig { temperature } }',
    )
    const keys = own.apiKeys.map(({ id, revokedAt }) => ({ id, revoked: revokedAt !== null }))
    expect(byId(keys)).toEqual(byId([...this.#keys].map(([id, key]) => ({ id, ...key }))))
    expect(own.agents).toEqual([{ id: this.#had('Agent') }])
    expect(own.agentConfig).toEqual({ temperature: this.#temperature ?? expect.any(Number) })
    return []
  }

  /** Closes the connection. */
  leave(): Promise<void> {
    return this.#options.api.client.close()
  }

  async #create({ title, key }: { title: string; key: string | null }): Promise<Thing[]> {
    const input = { title, idempotencyKey: key }
    const answer = await this.#mutate('createConversation', input, 'conversation { id title }')
    const again = this.#repeated('createConversation', key, input)
    if (again === 'conflict') return expectProblem(answer, 'Conflict')
    if (again) {
      const known = this.#conversations.get(again.id)
      if (!known) return expectProblem(answer, 'NotFound')
      expect(answer['conversation']).toEqual({ id: again.id, title: known.title })
      return []
    }
    expect(answer).toEqual({ __typename: 'CreateConversationPayload', conversation: { id: expect.any(String), title } })
    const { id } = answer['conversation'] as { id: string }
    this.#remember('createConversation', key, input, id)
    this.#conversations.set(id, { title, runs: new Map() })
    return [this.#own('Conversation', id)]
  }

  async #rename(id: string, title: string): Promise<Thing[]> {
    const answer = await this.#mutate('renameConversation', { conversationId: id, title }, 'conversation { id title }')
    const conversation = this.#conversations.get(id)
    if (!conversation) return expectProblem(answer, 'NotFound')
    expect(answer['conversation']).toEqual({ id, title })
    conversation.title = title
    return []
  }

  async #delete(id: string): Promise<Thing[]> {
    const answer = await this.#mutate('deleteConversation', { conversationId: id }, 'deletedConversationId')
    if (!this.#conversations.delete(id)) return expectProblem(answer, 'NotFound')
    expect(answer['deletedConversationId']).toBe(id)
    return []
  }

  async #say(id: string, { words, key }: { words: string; key: string | null }): Promise<Thing[]> {
    const input = { conversationId: id, content: `${this.name} says ${words}.`, idempotencyKey: key }
    const answer = await this.#mutate('sendMessage', input, 'run { id } userMessage { id content }')
    const again = this.#repeated('sendMessage', key, input)
    if (again === 'conflict') return expectProblem(answer, 'Conflict')
    const conversation = this.#conversations.get(id)
    if (!conversation) return expectProblem(answer, 'NotFound')
    const { run, userMessage } = answer as unknown as { run: { id: string }; userMessage: { id: string; content: string } }
    expect(userMessage.content).toBe(input.content)
    if (again) {
      expect(run.id).toBe(again.id)
      return []
    }
    this.#remember('sendMessage', key, input, run.id)
    conversation.runs.set(run.id, { messageId: userMessage.id, words: input.content })
    return [this.#own('Run', run.id), this.#own('Message', userMessage.id)]
  }

  async #cancel(id: string): Promise<Thing[]> {
    const answer = await this.#mutate('cancelRun', { runId: id }, 'run { id }')
    if (!this.#run(id)) return expectProblem(answer, 'NotFound')
    expect(answer['run']).toEqual({ id })
    return []
  }

  async #follow(id: string): Promise<Thing[]> {
    const query = `subscription ($id: ID!) { agentReply(runId: $id) { __typename
      ... on TextDelta { text } ... on Snapshot { text } ... on StreamReset { text } ... on RunCancelled { text }
      ... on RunCompleted { message { content run { id } } } } }`
    const events = this.#options.api.client.events<{ agentReply: Result }>(query, { id })
    const run = this.#run(id)
    if (!run) {
      await expect(events.next()).rejects.toThrow('"NOT_FOUND"')
      return []
    }
    const reply = echoOf(run.words)
    let shown = ''
    let last = 'nothing'
    for await (const { agentReply: event } of events) {
      last = event.__typename
      if (last === 'TextDelta') shown += event['text']
      else if ('text' in event) shown = String(event['text'])
      expect(reply.startsWith(shown), `${shown} is no beginning of ${reply}`).toBe(true)
      if (last === 'RunCompleted') expect(event['message']).toEqual({ content: reply, run: { id } })
    }
    expect(last).toBeOneOf(['RunCompleted', 'RunCancelled'])
    return []
  }

  async #configure(agentId: string, temperature: number): Promise<Thing[]> {
    const answer = await this.#mutate('updateAgentConfig', { agentId, temperature }, 'agentConfig { id temperature }')
    if (this.#options.userId !== null) return expectProblem(answer, 'Forbidden')
    if (agentId !== this.#had('Agent')) return expectProblem(answer, 'NotFound')
    expect(answer['agentConfig']).toEqual({ id: expect.any(String), temperature })
    const { id } = answer['agentConfig'] as { id: string }
    this.#temperature = temperature
    this.#configs.add(id)
    return [this.#own('AgentConfig', id)]
  }

  async #issueKey(name: string): Promise<Thing[]> {
    const answer = await this.#mutate('createApiKey', { name, role: 'MEMBER' }, 'apiKey { id name }')
    if (this.#options.userId !== null) return expectProblem(answer, 'Forbidden')
    expect(answer['apiKey']).toEqual({ id: expect.any(String), name })
    const { id } = answer['apiKey'] as { id: string }
    this.#keys.set(id, { revoked: false })
    return [this.#own('ApiKey', id)]
  }

  async #revokeKey(id: string): Promise<Thing[]> {
    const answer = await this.#mutate('revokeApiKey', { apiKeyId: id }, 'apiKey { id }')
    if (this.#options.userId !== null) return expectProblem(answer, 'Forbidden')
    const key = this.#keys.get(id)
    if (!key) return expectProblem(answer, 'NotFound')
    expect(answer['apiKey']).toEqual({ id })
    key.revoked = true
    return []
  }

  /** Asks for the thing by every look-up, whatever its type. */
  async #look({ type, id }: Pick<Thing, 'type' | 'id'>): Promise<Thing[]> {
    const { data, errors } = await this.#options.api.client.request<Record<string, Result | null>>(
      `query ($id: ID!) { node(id: $id) { __typename id } run(id: $id) { userMessage { id content } }
        conversation(id: $id) { title messages(first: 100) { edges { node { content run { id } } } } } }`,
      { id },
    )
    // End users are told that they may read no such thing, be there one or not.
    const forbidden = this.#options.userId !== null && ['Agent', 'AgentConfig', 'Tenant'].includes(type)
    expect(errors?.map(({ extensions }) => extensions?.['code'])).toEqual(forbidden ? ['FORBIDDEN'] : undefined)

    const conversation = this.#conversations.get(id)
    const run = this.#run(id)
    const message = [...this.#conversations.values()].some(({ runs }) =>
      [...runs.values()].some(({ messageId }) => messageId === id),
    )
    const staffs = [this.#had('Tenant'), this.#had('Agent'), ...this.#configs].includes(id) && this.#options.userId === null
    const seen = conversation || run || message || staffs
    expect(data['node']).toEqual(seen ? { __typename: type, id } : null)
    expect(data['run']).toEqual(run ? { userMessage: { id: run.messageId, content: run.words } } : null)
    expect(data['conversation']?.['title'] ?? null).toBe(conversation?.title ?? null)
    const { edges = [] } = (data['conversation']?.['messages'] ?? {}) as {
      edges?: { node: { content: string; run: { id: string } } }[]
    }
    for (const { node } of edges) {
      const { words = '' } = conversation?.runs.get(node.run.id) ?? {}
      expect(node.content === words || echoOf(words).startsWith(node.content), `${node.content} in reply to ${words}`).toBe(true)
    }
    return []
  }

  #own(type: NodeType, id: string): Thing {
    return { type, id, owner: this.name }
  }

  #had(type: NodeType): string | undefined {
    return this.#options.own.find((thing) => thing.type === type)?.id
  }

  #run(id: string): Said | undefined {
    for (const { runs } of this.#conversations.values()) if (runs.has(id)) return runs.get(id)
    return undefined
  }

  /** The id of what the step is about; of nothing when there is no such thing yet. */
  #find(type: NodeType, aim: Aim, things: readonly Thing[]): string {
    // Who revokes the own key is heard no more.
    const apt = things.filter((thing) => thing.type === type && !(type === 'ApiKey' && this.#options.own.includes(thing)))
    return this.#findAny(aim, apt).id
  }

  #findAny({ mine, at }: Aim, things: readonly Thing[]): Thing {
    const { tenant } = this.#options
    const apt = mine ? things.filter(({ owner }) => owner === this.name || owner === tenant) : things
    return apt[at % apt.length] ?? { type: 'Message', id: encodeId('Message', newId()), owner: 'nobody' }
  }

  #repeated(mutation: string, key: string | null, input: object): { id: string } | 'conflict' | null {
    const done = key === null ? undefined : this.#done.get(`${mutation} ${key}`)
    if (!done) return null
    return done.input === JSON.stringify(input) ? done : 'conflict'
  }

  #remember(mutation: string, key: string | null, input: object, id: string): void {
    if (key !== null) this.#done.set(`${mutation} ${key}`, { input: JSON.stringify(input), id })
  }

  async #mutate(name: string, input: object, selection: string): Promise<Result> {
    const Name = name.charAt(0).toUpperCase() + name.slice(1)
    const { result } = await this.#data<{ result: Result }>(
      `mutation ($input: ${Name}Input!) { result: ${name}(input: $input) { __typename ... on ${Name}Payload { ${selection} } } }`,
      { input },
    )
    return result
  }

  #data<T>(query: string, variables?: Record<string, unknown>): Promise<T> {
    return this.#options.api.client.data<T>(query, variables)
  }
}

/** What the model answers to these words. */
export function echoOf(words: string): string {
  return `You say: ${words}`
}

function expectProblem(answer: Result, problem: string): Thing[] {
  expect(answer).toEqual({ __typename: problem })
  return []
}

function byId(rows: object[]): object[] {
  return rows.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
}
