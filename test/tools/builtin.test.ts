import { expect, test } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { builtinTools } from '../../src/tools/builtin.ts'

const noon = Date.parse('2026-07-01T12:00:00Z')
const context = { signal: new AbortController().signal, idempotencyKey: newId() }

async function currentTime(now = noon) {
  const tool = builtinTools(() => now).find(({ name }) => name === 'current_time')
  if (!tool) throw new Error('There is no current_time.')
  return tool
}

test('current_time tells the time in UTC', async () => {
  const tool = await currentTime()
  expect(await tool.call({}, context)).toBe('Wednesday, 1 July 2026 at 12:00:00 UTC (UTC), 2026-07-01T12:00:00.000Z')
})

test('current_time tells the time in a time zone, summer time included', async () => {
  const summer = await (await currentTime()).call({ timeZone: 'Europe/Paris' }, context)
  expect(summer).toContain('1 July 2026 at 14:00:00')
  const winter = await (await currentTime(Date.parse('2026-01-01T23:30:00Z'))).call({ timeZone: 'Europe/Paris' }, context)
  expect(winter).toContain('Friday, 2 January 2026 at 00:30:00')
})

test('what the model is told to send is what is checked', async () => {
  const tool = await currentTime()
  expect(tool.parameters).toEqual({
    type: 'object',
    properties: { timeZone: { type: 'string', maxLength: 64, description: expect.stringContaining('IANA') } },
    additionalProperties: false,
  })
})

test.each([
  ['an unknown zone', { timeZone: 'Mars/Olympus' }, /"Mars\/Olympus" is not an IANA time zone/],
  ['an empty zone', { timeZone: '' }, /not an IANA time zone/],
  ['a number', { timeZone: 3 }, /expected string/],
  ['an endless name', { timeZone: 'x'.repeat(65) }, /Too big/],
  ['another argument', { zone: 'UTC' }, /zone/],
  ['null', null, /expected object/],
  ['text', 'now', /expected object/],
])('current_time answers %s with words the model can act on', async (_what, args, message) => {
  const tool = await currentTime()
  await expect(tool.call(args, context)).rejects.toThrow(message)
})
