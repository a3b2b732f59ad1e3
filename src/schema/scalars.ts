import { GraphQLError, GraphQLScalarType } from 'graphql'
import { DateTimeResolver, JSONObjectResolver } from 'graphql-scalars'
import { builder } from './builder.ts'

/** Most characters that are read: more than any limit or amount has. */
const mostDigits = 40

const BigIntScalar = new GraphQLScalarType<bigint, number | string>({
  name: 'BigInt',
  description:
    'A whole number of any size: in answers a number up to 2^53 and beyond that text, in requests either. Text is decimal digits.',
  coerceOutputValue: (value) => {
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : String(value)
  },
  coerceInputValue: wholeNumber,
  coerceInputLiteral: (node) => wholeNumber('value' in node ? node.value : null),
})

function wholeNumber(value: unknown): bigint {
  const text = typeof value === 'number' || typeof value === 'bigint' ? String(value) : value
  if (typeof text === 'string' && /^-?\d+$/.test(text) && text.length <= mostDigits) return BigInt(text)
  throw new GraphQLError('A BigInt is a whole number, as a number or as text in decimal digits.')
}

builder.addScalarType('DateTime', DateTimeResolver)
builder.addScalarType('BigInt', BigIntScalar)
builder.addScalarType('JSONObject', JSONObjectResolver)
