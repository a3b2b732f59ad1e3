import fc from 'fast-check'
import { expect, test } from 'vitest'
import { builtinTools } from '../../src/tools/builtin.ts'
import { calculate } from '../../src/tools/calculator.ts'
import { callContext } from '../support/tool-maker.ts'

test.each([
  ['1 + 2 * 3', '7'],
  ['(1 + 2) * 3', '9'],
  ['-2 ^ 2', '-4'],
  ['0.1 + 0.2', '0.3'],
  ['10 % 3', '1'],
  ['5!', '120'],
  ['sqrt(2) ^ 2', '2'],
  ['max(1, 2, 3) - min(1, 2)', '2'],
  ['roundTo(PI, 4)', '3.1416'],
  ['2 > 1 ? 10 : 20', '10'],
  ['1e3 / 4', '250'],
])('%s is %s', (expression, value) => {
  expect(calculate(expression)).toBe(value)
})

test.each([
  ['1 / 0', 'not a finite number'],
  ['10 ^ 10 ^ 10', 'not a finite number'],
  ['(10 ^ 9)!', 'not a finite number'],
  ['"text"', 'not a finite number'],
  ['1 == 1', 'not a finite number'],
  ['toString(1)', ''],
  ['constructor', 'cannot be calculated'],
  ['sin.constructor("return process")()', 'cannot be calculated'],
  ['__proto__', 'cannot be calculated'],
  ['a = 1', 'cannot be calculated'],
  ['f(x) = f(x - 1) + f(x - 1); f(50)', 'cannot be calculated'],
  ['random()', 'cannot be calculated'],
  ['map(sin, 1)', 'cannot be calculated'],
  ['1 +', 'cannot be calculated'],
  ['', 'cannot be calculated'],
  ['('.repeat(1_000), 'cannot be calculated'],
])('%s is refused, at once', (expression, message) => {
  const started = performance.now()
  expect(() => calculate(expression)).toThrow(message)
  expect(performance.now() - started).toBeLessThan(500)
})

test('whole numbers come out as they are calculated in JavaScript', () => {
  const whole = fc.integer({ min: -1_000_000, max: 1_000_000 })
  fc.assert(
    fc.property(whole, whole, whole, (a, b, c) => {
      expect(calculate(`(${a}) + (${b}) * (${c})`)).toBe(String(a + b * c))
    }),
  )
})

test('whatever is typed is a number or an error', () => {
  const letters = fc.constantFrom(...'0123456789.+-*/%^!()?:,<>= PEIesinqrtmaxlog"\'[]{};_')
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 60 }), (typed) => {
      try {
        expect(Number.isFinite(Number(calculate(typed.join(''))))).toBe(true)
      } catch (error) {
        expect(error).toBeInstanceOf(Error)
        expect(String(error)).toMatch(/cannot be calculated|not a finite number/)
      }
    }),
    { numRuns: 2_000 },
  )
})

test('the tool checks what it is sent', async () => {
  const tool = builtinTools(Date.now).find(({ name }) => name === 'calculator')
  expect(await tool?.call({ expression: '6 * 7' }, callContext())).toBe('42')
  await expect(tool?.call({ expression: '1+'.repeat(600) }, callContext())).rejects.toThrow('Too big')
  await expect(tool?.call({}, callContext())).rejects.toThrow('expression')
})
