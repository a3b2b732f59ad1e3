import { chmod, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { sendMessage } from '../support/agent-reply.ts'
import { browserAvailable, browserSuite, type OfflineBrowser, startOfflineBrowser } from '../support/browser.ts'
import { type FakeUpstream, startFakeUpstream } from '../support/fake-upstream.ts'
import { graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

const patience = { timeout: 10_000 }

describe.runIf(browserAvailable)(browserSuite('GraphiQL in a browser without a network'), () => {
  let dataDir: string
  let upstream: FakeUpstream
  let platform: PlatformProcess
  let browser: OfflineBrowser
  let url: string
  let tenant: { name: string; memberKey: string }

  beforeAll(async () => {
    ;[dataDir, upstream, browser] = await Promise.all([
      makeScratchDirectory('bulkhead-e2e-'),
      startFakeUpstream(),
      startOfflineBrowser(),
    ])
    // Root's Postgres account has to reach into it, or the database lands outside.
    await chmod(dataDir, 0o755)
    platform = startPlatformProcess({ BULKHEAD_DATA_DIR: dataDir, OPENAI_BASE_URL: upstream.url })
    url = await platform.url
    tenant = JSON.parse(await readFile(join(dataDir, 'demo.json'), 'utf8')).tenants[0]
    await browser.page.goto(`${url}/graphql`)
  }, 60_000)

  afterAll(async () => {
    await browser.close()
    await platform.stop()
    await upstream.close()
    await rm(dataDir, { recursive: true, force: true })
  })

  afterEach(() => {
    expect(browser.outside).toEqual([])
    expect(browser.complaints).toEqual([])
  })

  const pane = (name: string) => browser.page.getByRole('region', { name, exact: true })

  /** Replaces what is in an editor. Pasted, because an editor completes what is typed. */
  async function paste(editor: string, text: string): Promise<void> {
    await browser.page.evaluate(`navigator.clipboard.writeText(${JSON.stringify(text)})`)
    await pane(editor).getByRole('textbox').focus()
    await browser.page.keyboard.press('ControlOrMeta+A')
    await browser.page.keyboard.press('ControlOrMeta+V')
  }

  /** Puts the key into the headers tab, and waits until GraphiQL has stored it for the sockets. */
  async function signIn(): Promise<void> {
    const headers = JSON.stringify({ Authorization: `Bearer ${tenant.memberKey}` })
    await paste('Headers', headers)
    await expect.poll(() => browser.page.evaluate("localStorage.getItem('graphiql:headers')"), patience).toBe(headers)
  }

  const execute = () => browser.page.getByRole('button', { name: /^Execute query/ }).click()

  /** Resolves once the result says all of this; the editor shows spaces as no-break spaces. */
  async function shows(...texts: string[]): Promise<void> {
    const result = async () => (await pane('Result Window').textContent())?.replaceAll('\u00a0', ' ')
    for (const text of texts) await expect.poll(result, patience).toContain(text)
  }

  it('documents the schema', async () => {
    await browser.page.getByRole('button', { name: 'Show Documentation Explorer' }).click()
    await browser.page.getByRole('link', { name: 'Subscription' }).click()
    await browser.page.getByRole('link', { name: 'agentReply' }).waitFor()
    await browser.page.getByRole('button', { name: 'Hide Documentation Explorer' }).click()
  })

  it('answers the query that it starts with, once the key is in the headers tab', async () => {
    await signIn()
    await execute()
    await shows(`"name": "${tenant.name}"`)
  })

  it('shows an answer while the model writes it, over a socket', async () => {
    const { promise: restIsDue, resolve: sendRest } = Promise.withResolvers<void>()
    upstream.next(async (answer) => {
      answer.delta({ content: 'Good' })
      await restIsDue
      answer.delta({ content: ' morning' })
      answer.finish()
    })
    const api = graphqlClient(url, tenant.memberKey)
    const { runId } = await sendMessage(api, 'Hello')
    await api.close()

    await signIn()
    await paste(
      'Operation Editor',
      `subscription Reply {
        agentReply(runId: "${runId}") { __typename ... on TextDelta { text } ... on RunCompleted { message { content } } }
      }`,
    )
    // The tab takes the operation's name when GraphiQL has understood it.
    await browser.page.getByRole('button', { name: 'Reply', exact: true }).waitFor()
    await execute()
    await shows('"TextDelta"', '"text": "Good"')
    sendRest()
    await shows('"RunCompleted"', '"content": "Good morning"')
    expect(browser.sockets).toEqual([`${url.replace(/^http/, 'ws')}/graphql`])
  })
})
