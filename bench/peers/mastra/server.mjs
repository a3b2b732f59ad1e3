import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { serve } from '@hono/node-server'
import { Mastra } from '@mastra/core'
import { Agent } from '@mastra/core/agent'
import { MastraServer } from '@mastra/hono'
import { Hono } from 'hono'

const [, , baseURL, port] = process.argv
const provider = createOpenAICompatible({ name: 'bench', baseURL, apiKey: 'bench' })
const agent = new Agent({ id: 'bench', name: 'bench', instructions: 'Be brief.', model: provider.chatModel('bench') })
const app = new Hono()
await new MastraServer({ app, mastra: new Mastra({ agents: { bench: agent }, logger: false }) }).init()
serve({ fetch: app.fetch, port: Number(port), hostname: '127.0.0.1' })
