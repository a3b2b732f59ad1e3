import type { ModelEvent, ModelRequest } from '../../src/domain/ports.ts'

export const key = 'sk-very-secret-key'

export const hello: ModelRequest = {
  model: 'gpt-4o-mini',
  messages: [{ role: 'user', content: 'Hello' }],
  temperature: 0.5,
  maxOutputTokens: 100,
  tools: [],
}

export async function collect(events: AsyncIterable<ModelEvent>): Promise<ModelEvent[]> {
  const all: ModelEvent[] = []
  for await (const event of events) all.push(event)
  return all
}

export function textOf(events: ModelEvent[]): string {
  return events.map((event) => (event.type === 'text' ? event.text : '')).join('')
}
