import { createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { ConfigError } from './config.ts'
import { demoFilePath, readDemoFile } from './demo-file.ts'

export type AskOptions = {
  /** The demo tenant to ask as; ignored when there is a key. */
  as: string
  key?: string
  url?: string
  dataDir: string
}

/** Asks an agent through the public API, like any other client, and writes the answer as it streams. */
export async function ask(question: string, options: AskOptions, write: (text: string) => void): Promise<void> {
  const { url, key } = await accountOf(options)
  const client = createClient({
    url: url.replace(/^http/, 'ws'),
    webSocketImpl: WebSocket,
    connectionParams: { authorization: `Bearer ${key}` },
  })
  try {
    const started = await post<Started>(url, key, startRun, { input: { title: question.slice(0, 80) } })
    const conversationId = idOf(started.createConversation).conversation.id
    const sent = await post<Sent>(url, key, sendMessage, { input: { conversationId, content: question } })
    for await (const { data, errors } of client.iterate<{ agentReply: ReplyEvent }>({
      query: agentReply,
      variables: { runId: idOf(sent.sendMessage).run.id },
    })) {
      if (errors) throw new Error(errors[0]?.message)
      const event = data?.agentReply
      if (event?.__typename === 'TextDelta') write(event.text)
      if (event?.__typename === 'RunFailed') throw new Error(event.failure.message)
    }
    write('\n')
  } finally {
    await client.dispose()
  }
}

type ReplyEvent =
  | { __typename: 'TextDelta'; text: string }
  | { __typename: 'RunFailed'; failure: { message: string } }
  | { __typename: 'other' }
type Problem = { __typename: string; message: string }
type Started = { createConversation: { conversation: { id: string } } | Problem }
type Sent = { sendMessage: { run: { id: string } } | Problem }

const startRun = `mutation ($input: CreateConversationInput!) {
  createConversation(input: $input) { ... on CreateConversationPayload { conversation { id } } ... on Problem { __typename message } }
}`
const sendMessage = `mutation ($input: SendMessageInput!) {
  sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { __typename message } }
}`
const agentReply = `subscription ($runId: ID!) {
  agentReply(runId: $runId) { __typename ... on TextDelta { text } ... on RunFailed { failure { message } } }
}`

function idOf<T extends object>(result: T | Problem): T {
  if ('message' in result) throw new Error(result.message)
  return result
}

async function post<T>(url: string, key: string, query: string, variables: object): Promise<T> {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const { data, errors } = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ query, variables }) })
    .then((response) => response.json() as Promise<{ data: T; errors?: { message: string }[] }>)
    .catch((cause) => {
      throw new ConfigError(`There is no Bulkhead at ${url}. Run \`npm start\` first, or give --url.`, { cause })
    })
  if (errors) throw new Error(errors[0]?.message)
  return data
}

/** The key to ask with: the given one, or the demo tenant's from the file that the first start wrote. */
async function accountOf({ as, key, url, dataDir }: AskOptions): Promise<{ url: string; key: string }> {
  if (key !== undefined) return { url: url ?? 'http://127.0.0.1:4000/graphql', key }
  const demo = await readDemoFile(dataDir)
  if (!demo)
    throw new ConfigError(
      `There are no demo accounts in ${demoFilePath(dataDir)}. Run \`npm start\` first, or give --key and --url.`,
    )
  const tenant = demo.tenants.find(({ name }) => name === as)
  if (!tenant)
    throw new ConfigError(`There is no demo tenant '${as}'. Use one of: ${demo.tenants.map(({ name }) => name).join(', ')}.`)
  return { url: url ?? `${demo.url}/graphql`, key: tenant.memberKey }
}
