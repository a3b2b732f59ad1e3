import { describe, expect, it } from 'vitest'
import { readProviderUsage } from '../../src/domain/provider-usage.ts'

const day = 86_400
const first = Date.UTC(2026, 10, 1) / 1_000

const month = { from: new Date('2026-11-01T00:00:00Z'), to: new Date('2026-12-01T00:00:00Z') }

/** A result as the Usage API gives it, with fields that do not matter. */
const result = (model: string | null, input: number, more: object = {}) => ({
  ...{ object: 'organization.usage.completions.result', input_tokens: input, output_tokens: 5, input_cached_tokens: 2 },
  ...{ num_model_requests: 1, project_id: null, user_id: null, api_key_id: null, model, batch: null, input_audio_tokens: 0 },
  ...more,
})

const bucket = (start: number, results: object[]) => ({ object: 'bucket', start_time: start, end_time: start + day, results })

const page = (data: object[], more = {}) => ({ object: 'page', data, has_more: false, next_page: null, ...more })

const used = (requests: bigint, inputTokens: bigint, cachedInputTokens: bigint, outputTokens: bigint) => ({
  ...{ requests, inputTokens, cachedInputTokens, outputTokens },
})

const read = (content: unknown, within: typeof month | null = null) =>
  readProviderUsage(typeof content === 'string' ? content : JSON.stringify(content), within)

describe("a provider's account of what was used", () => {
  it('is read from pages of the Usage API, for all the time that they are of', () => {
    const data = [
      bucket(first, [
        result('gpt-4o', 10),
        result('gpt-4o', 20, { batch: true }),
        result('o3', 7, { input_cached_tokens: null }),
      ]),
      bucket(first + day, []),
    ]
    const expected = {
      period: { from: new Date('2026-11-01'), to: new Date('2026-11-03') },
      models: new Map([
        ['gpt-4o', used(2n, 30n, 4n, 10n)],
        ['o3', used(1n, 7n, 0n, 5n)],
      ]),
    }
    expect(read(page(data))).toEqual(expected)
    expect(read(data)).toEqual(expected)
    expect(read([page(data.slice(0, 1), { has_more: true }), page(data.slice(1))])).toEqual(expected)
  })

  it('is read from the CSV of the dashboard, empty days included', () => {
    const header =
      'start_time,end_time,start_time_iso,num_model_requests,model,input_tokens,output_tokens,input_cached_tokens,input_text_tokens'
    const rows = [`${first},${first + day},x,3,gpt-4o,100,50,20,100`, `${first + day},${first + 2 * day},x,,,,,,`]
    expect(read(`\ufeff${[header, ...rows].join('\n')}\n`)).toEqual({
      period: { from: new Date('2026-11-01'), to: new Date('2026-11-03') },
      models: new Map([['gpt-4o', used(3n, 100n, 20n, 50n)]]),
    })
  })

  it('is read from a plain CSV, by days in UTC', () => {
    const header = 'date,model,input_tokens,cached_input_tokens,output_tokens,requests'
    expect(read(`${header}\r\n2026-11-01,"a,b",9007199254740993,1,2,3\r\n2026-11-02,"a,b",1,1,1,1\r\n`)).toEqual({
      period: { from: new Date('2026-11-01'), to: new Date('2026-11-03') },
      models: new Map([['a,b', used(4n, 9_007_199_254_740_994n, 2n, 3n)]]),
    })
  })

  it('is that of a month, all of it, where one is asked for', () => {
    const data = [
      bucket(first - day, [result('m', 1)]),
      bucket(first, [result('m', 10)]),
      bucket(first + 30 * day, [result('m', 1)]),
    ]
    expect(read(page(data), month)).toEqual({ period: month, models: new Map([['m', used(1n, 10n, 2n, 5n)]]) })
    const october = { from: new Date('2026-10-01'), to: new Date('2026-10-02') }
    expect(() => read(page(data), october)).toThrow('The file has nothing of that month.')
    expect(() => read(page([bucket(first - day / 2, [])]), month)).toThrow('only partly in that month')
  })

  const plain = 'date,model,input_tokens,cached_input_tokens,output_tokens,requests\n'

  it.each([
    ['nothing', '', 'neither a column date'],
    ['half a JSON', '{"data": [', 'looks like JSON and is none'],
    ['another JSON', { data: [{ results: [] }] }, "not of OpenAI's Usage API"],
    ['figures below nothing', page([bucket(first, [result('m', -1)])]), "not of OpenAI's Usage API"],
    ['no buckets', page([]), 'has no usage in it'],
    ['usage of all models together', page([bucket(first, [result(null, 1)])]), 'group_by=model'],
    ['the first page of more', page([bucket(first, [])], { has_more: true }), 'says that there are more'],
    ['a CSV of costs', 'start_time,end_time,amount\n1,2,3\n', 'The CSV lacks model, num_model_requests'],
    ['a CSV of something', 'name,age\nann,3\n', 'neither a column date'],
    ['a CSV with lines of other lengths', `${plain}2026-11-01,m,1\n`, 'neither JSON nor CSV'],
    ['a day that is none', `${plain}2026-02-30,m,1,0,1,1\n`, 'Line 2 of the CSV does not say when'],
    ['a fraction of a token', `${plain}2026-11-01,m,1,0,1,1\n2026-11-01,m,1.5,0,1,1\n`, 'Line 3 of the CSV has a figure'],
    ['a row without a model', `${plain}2026-11-01,,1,0,1,1\n`, 'Line 2 of the CSV names no model'],
  ])('is refused when it is %s', (_what, content, message) => {
    expect(() => read(content)).toThrow(message)
  })
})
