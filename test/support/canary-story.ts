import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { followRun } from './agent-reply.ts'
import { breaksOffAfter, callsTool, fails, says, stallsAfter, type UpstreamScript } from './fake-upstream.ts'
import { type GraphQLClient, graphqlClient } from './graphql-client.ts'
import { openSocket, signIn } from './raw-socket.ts'
import type { WebhookReceiver } from './webhook-receiver.ts'

/** A tenant that leaves its canary in every text that it can write, and what went wrong for it. */
export type CanaryTenant = {
  tenantId: string
  canary: string
  /** What its tool sends, and nobody is to find anywhere. */
  secret: string
  adminKey: string
  /** Of an end user whose id is the canary. */
  userKey: string
  /** What was sent when something was to go wrong, and the whole answer. */
  refusals: { sent: string; answer: string }[]
}

/** What the model does is in the message: so a tenant provokes its upstream's failures. The failures quote the message. */
export const canaryModel: UpstreamScript = (answer) => {
  const { lastMessage, body } = answer.request
  const quoted = { message: lastMessage, param: lastMessage, code: lastMessage }
  const used = body.messages.filter(({ role }) => role === 'tool').length
  // One that fails, one that is told what it sent, and one that is told so with an error.
  if (used === 1 || used === 2) return callsTool('echo', { status: used === 1 ? 200 : 500 }, `call_${used}`)(answer)
  if (used > 0) return says(`After the tool: ${lastMessage}`)(answer)
  if (lastMessage.includes('use a tool')) return callsTool('current_time', { timeZone: lastMessage })(answer)
  if (lastMessage.includes('answer badly')) return says(`${lastMessage} unstorable`)(answer)
  if (lastMessage.includes('fail')) return fails(lastMessage.includes('fail 400') ? 400 : 500, {}, quoted)(answer)
  if (lastMessage.includes('break off')) return breaksOffAfter(lastMessage)(answer)
  if (lastMessage.includes('stall')) return stallsAfter(lastMessage)(answer)
  if (lastMessage.includes('garbage')) {
    answer.raw(`data: {"choices":[{"delta":{"content":"${lastMessage}"\n\ndata: ${lastMessage}\n\n`)
    return answer.end()
  }
  return says(`You said: ${lastMessage}`)(answer)
}

const apiKeyOf = `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { ... on CreateApiKeyPayload { secret } ... on Problem { message } } }`
const configure = `mutation ($input: UpdateAgentConfigInput!) { updateAgentConfig(input: $input) { __typename ... on Problem { message } } }`
const converse = `mutation ($input: CreateConversationInput!) { createConversation(input: $input) { ... on CreateConversationPayload { conversation { id } } ... on Problem { message } } }`
const toolOf = `mutation ($input: CreateToolInput!) { createTool(input: $input) { __typename ... on Problem { message } } }`
const keep = `mutation ($input: SetSecretInput!) { setSecret(input: $input) { __typename ... on Problem { message } } }`
const settle = `mutation ($input: UpdateTenantSettingsInput!) { updateTenantSettings(input: $input) { __typename ... on Problem { message } } }`
const rename = `mutation ($input: RenameConversationInput!) { renameConversation(input: $input) { __typename ... on Problem { message } } }`
const send = `mutation ($input: SendMessageInput!) { sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { message } } }`
const cancel = `mutation ($id: ID!) { cancelRun(input: { runId: $id }) { __typename } }`

/** The tenant's own key of the model provider, if it brings one. */
export function modelKeyOf(canary: string): string {
  return `sk-${canary}`
}

/** Answers with what it was sent, in every form that servers use, under the status that it was asked for. */
export const echoInEveryForm: WebhookReceiver['answer'] = ({ path, headers }, response) => {
  const sent = headers['authorization'] ?? ''
  const bytes = Buffer.from(sent)
  const forms = [sent, encodeURIComponent(sent), new URLSearchParams({ sent }).toString(), bytes.toString('hex')]
  const encoded = [0, 1, 2].map((before) => Buffer.from(`${'x'.repeat(before)}${sent}`).toString('base64'))
  response.writeHead(Number(new URL(path, 'http://echo').searchParams.get('status')), { 'x-echo': sent })
  response.end(JSON.stringify({ forms, encoded, urlSafe: bytes.toString('base64url'), nested: JSON.stringify({ sent }) }))
}

/** Makes the tenant of `adminKey` one that is all canary: its name, its people, its agent's configuration, its keys. */
export async function becomeCanary(
  { url, adminUrl, echoUrl }: { url: string; adminUrl: string; echoUrl: string },
  name: string,
  adminKey: string,
): Promise<CanaryTenant> {
  // One word, so that it can stand wherever a name can.
  const canary = `canary${name}${randomBytes(6).toString('hex')}`
  const secret = `sk/${randomBytes(15).toString('base64')}+"\\%&=${randomBytes(6).toString('hex')}`
  const db = new pg.Client({ connectionString: adminUrl })
  await db.connect()
  const { rows } = await db.query<{ id: string }>('update tenants set name = $2 where name = $1 returning id', [name, canary])
  const tenantId = rows[0]?.id ?? ''
  // What no operation of the API writes, and whoever set the tenant up did.
  const people = `update members set name = $2, email = $2 || '-' || id || '@example.com' where tenant_id = $1`
  await db.query(people, [tenantId, canary])
  await db.query(`update agents set name = $2, slug = $2 where tenant_id = $1`, [tenantId, canary])
  await db.query(`update api_keys set name = $2 where tenant_id = $1`, [tenantId, canary])
  await db.end()

  const admin = graphqlClient(url, adminKey)
  const config = { systemPrompt: `You are ${canary}.`, model: `${canary}-model`, fallbackModels: [`${canary}-fallback`] }
  await admin.data(keep, { input: { name: canary, value: `The secret of ${canary}`, idempotencyKey: canary } })
  await admin.data(keep, { input: { name: `${canary}.echo`, value: secret } })
  const http = {
    url: `${echoUrl}?status={status}&${canary}`,
    parameters: { type: 'object', properties: { status: { type: 'integer' } } },
    headers: [{ name: 'authorization', value: `Bearer {{secret:${canary}.echo}}` }],
  }
  await admin.data(toolOf, { input: { name: 'echo', description: `The echo of ${canary}.`, http } })
  const enabledTools = ['current_time', 'echo']
  const branding = { name: canary, greeting: canary, logoUrl: `https://${canary}.example/logo.svg` }
  await admin.data(configure, { input: { ...config, enabledTools, branding } })
  const key = { name: `Key of ${canary}`, role: 'END_USER', userId: canary, idempotencyKey: canary }
  const { createApiKey } = await admin.data<{ createApiKey: { secret: string } }>(apiKeyOf, { input: key })
  await admin.close()
  return { tenantId, canary, secret, adminKey, userKey: createApiKey.secret, refusals: [] }
}

/** From now on the tenant's models are called with a key of its own. */
export async function bringModelKey(url: string, { adminKey, canary }: CanaryTenant): Promise<void> {
  const admin = graphqlClient(url, adminKey)
  const name = `${canary}-model-key`
  await admin.data(keep, { input: { name, value: modelKeyOf(canary) } })
  await admin.data(settle, { input: { modelKeySecret: name } })
  await admin.close()
}

/** The end user says `what` on one process and reads the answer on another, to its end. Answers the run's id. */
export async function say({ userKey, canary }: CanaryTenant, urls: string[], what: string): Promise<string> {
  const [here, there] = urls.map((url) => graphqlClient(url, userKey)) as [GraphQLClient, GraphQLClient]
  const { runId } = await begin(here, canary, what)
  for await (const _ of followRun(there, runId)) if (what.includes('stall')) break
  await Promise.all([here.close(), there.close()])
  return runId
}

async function begin(client: GraphQLClient, canary: string, what: string): Promise<{ runId: string }> {
  const idempotencyKey = `${canary}-${what.replaceAll(' ', '-')}`
  const input = { title: `Title ${canary}`, idempotencyKey }
  const { createConversation } = await client.data<{ createConversation: { conversation: { id: string } } }>(converse, { input })
  const conversationId = createConversation.conversation.id
  await client.data(rename, { input: { conversationId, title: `Renamed ${canary}` } })
  const message = { conversationId, content: `${canary} ${what}`, idempotencyKey }
  const { sendMessage } = await client.data<{ sendMessage: { run: { id: string } } }>(send, { input: message })
  return { runId: sendMessage.run.id }
}

/** The end user asks for an answer that cannot be stored, and does not wait for it. */
export async function askForTheUnstorable({ userKey, canary }: CanaryTenant, url: string): Promise<string> {
  const client = graphqlClient(url, userKey)
  const { runId } = await begin(client, canary, 'answer badly')
  await client.close()
  return runId
}

export async function cancelRun({ userKey }: CanaryTenant, url: string, id: string): Promise<void> {
  await graphqlClient(url, userKey).data(cancel, { id })
}

/** Sends what is wrong, with the canary in it, by every way there is, and notes the answers. */
export async function provoke(tenant: CanaryTenant, url: string): Promise<void> {
  const { canary, userKey, adminKey, refusals } = tenant
  const post = async (body: string, headers: Record<string, string> = {}) => {
    const response = await fetch(`${url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${userKey}`, ...headers },
      body,
    })
    const answer = `${response.status} ${[...response.headers].join(' ')} ${await response.text()}`
    refusals.push({ sent: body + JSON.stringify(headers), answer })
  }
  const ask = (query: string, variables: object = {}, headers?: Record<string, string>) =>
    post(JSON.stringify({ query, variables }), headers)

  await post(`{"query": "${canary}`)
  await post(canary, { 'content-type': 'text/plain' })
  await ask(`{ ${canary} }`)
  await ask(`query { viewer { role } ${canary} }`)
  await ask('query ($n: Int) { runs(first: $n) { edges { cursor } } }', { n: canary })
  await ask('{ viewer { role } }', {}, { authorization: `Bearer ${canary}` })
  await ask('{ viewer { role } }', {}, { 'last-event-id': canary, origin: `https://${canary}.example` })
  await ask('query ($id: ID!) { run(id: $id) { id } conversation(id: $id) { id } node(id: $id) { id } }', { id: canary })
  await ask('query ($after: String) { conversations(after: $after) { edges { cursor } } }', { after: canary })
  await ask('query ($u: String) { conversations(filter: { userId: $u }) { edges { cursor } } }', { u: `other ${canary}` })
  await ask(converse, { input: { title: `${canary} \u0000` } })
  await ask(converse, { input: { title: canary.repeat(200) } })
  await ask(converse, { input: { title: canary, userId: `other ${canary}` } })
  await ask(converse, { input: { title: `another ${canary}`, idempotencyKey: `${canary}-hello` } })
  await ask(rename, { input: { conversationId: canary, title: canary } })
  await ask(send, { input: { conversationId: canary, content: canary } })
  await ask(configure, { input: { systemPrompt: canary } })
  const asAdmin = { authorization: `Bearer ${adminKey}` }
  await ask(configure, { input: { model: `${canary} with spaces` } }, asAdmin)
  await ask(configure, { input: { systemPrompt: canary, enabledTools: [canary] } }, asAdmin)
  await ask(apiKeyOf, { input: { name: canary, role: 'MEMBER', userId: canary } }, asAdmin)
  await ask(keep, { input: { name: `${canary} with spaces`, value: canary } }, asAdmin)
  await ask(toolOf, { input: { name: canary, description: canary, http: { url: `http://127.0.0.1/${canary}` } } }, asAdmin)
  await ask(keep, { input: { name: canary, value: `Another of ${canary}`, idempotencyKey: canary } }, asAdmin)
  // Postgres refuses these, and says which row it was.
  await ask(converse, { input: { title: `${canary} unstorable` } })
  await ask(configure, { input: { systemPrompt: `${canary} unstorable` } }, asAdmin)
  await ask(apiKeyOf, { input: { name: `${canary} unstorable`, role: 'MEMBER' } }, asAdmin)
  await ask(keep, { input: { name: `${canary}.unstorable`, value: canary } }, asAdmin)

  const socket = await signIn(url, userKey)
  for (const query of [`{ ${canary} }`, `subscription { agentReply(runId: "${canary}") { __typename } }`, canary]) {
    const message = { id: canary, type: 'subscribe', payload: { query } }
    socket.send(message)
    refusals.push({ sent: JSON.stringify(message), answer: JSON.stringify(await socket.next()) })
  }
  socket.send({ type: canary })
  await socket.closed
  const stranger = await openSocket(url)
  stranger.send({ type: 'connection_init', payload: { authorization: `Bearer ${canary}` } })
  await stranger.closed
}

/** From now on Postgres refuses to store such texts, in every table that holds them, and says in its error what they were. */
export async function refuseUnstorable(adminUrl: string): Promise<void> {
  const columns = {
    conversations: 'title',
    messages: 'content',
    agent_configs: 'system_prompt',
    api_keys: 'name',
    runs: 'turns::text',
    secrets: 'name',
    audit_events: 'details::text',
  }
  const db = new pg.Client({ connectionString: adminUrl })
  await db.connect()
  for (const [table, column] of Object.entries(columns)) {
    await db.query(`alter table ${table} add constraint storable check (${column} not like '%unstorable%') not valid`)
  }
  await db.end()
}
