import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { Agent, VoltAgent } from '@voltagent/core'
import { createPinoLogger } from '@voltagent/logger'
import { honoServer } from '@voltagent/server-hono'

const [, , baseURL, port] = process.argv
const provider = createOpenAICompatible({ name: 'bench', baseURL, apiKey: 'bench' })
const agent = new Agent({ name: 'bench', instructions: 'Be brief.', model: provider.chatModel('bench'), memory: false })
const logger = createPinoLogger({ level: 'silent' })
new VoltAgent({ agents: { bench: agent }, logger, server: honoServer({ port: Number(port), enableSwaggerUI: false }) })
