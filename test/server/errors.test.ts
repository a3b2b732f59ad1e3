// @module-tag edge-errors
import { PassThrough } from 'node:stream'
import { GraphQLError } from 'graphql'
import pino from 'pino'
import { beforeEach, describe, expect, it } from 'vitest'
import { Conflict, Forbidden, NotFound, Unauthenticated, Unavailable, ValidationProblem } from '../../src/domain/errors.ts'
import { badRequest, createErrorMask, publicError } from '../../src/server/errors.ts'

let lines: string[]
let mask: ReturnType<typeof createErrorMask>

beforeEach(() => {
  lines = []
  mask = createErrorMask(
    pino(
      {},
      new PassThrough().on('data', (line) => lines.push(String(line))),
    ),
  )
})

/** As graphql-js hands it on when a resolver throws it. */
const thrown = (originalError: Error) => new GraphQLError(originalError.message, { path: ['field'], originalError })

describe('what a client sees of an error', () => {
  it.each([
    [new NotFound('run'), { code: 'NOT_FOUND' }, 'There is no such run.'],
    [new Forbidden(), { code: 'FORBIDDEN' }, 'Your role does not allow this.'],
    [new ValidationProblem(['first'], 'Too many.'), { code: 'BAD_USER_INPUT' }, 'Too many.'],
    [new Conflict('Taken.'), { code: 'BAD_USER_INPUT' }, 'Taken.'],
    [new Unavailable('Later.', 7), { code: 'SERVICE_UNAVAILABLE', retryAfterSeconds: 7 }, 'Later.'],
    [
      Object.assign(new Error('connect ECONNREFUSED 10.0.0.7:5432'), { code: 'ECONNREFUSED' }),
      { code: 'SERVICE_UNAVAILABLE', retryAfterSeconds: 2 },
      'The database cannot be reached.',
    ],
    [new Unauthenticated(), { code: 'UNAUTHENTICATED' }, expect.stringContaining('Bearer')],
  ])('is its code: %s', (error, extensions, message) => {
    expect(publicError(mask(thrown(error)))).toEqual({ message, path: ['field'], extensions })
  })

  it.each([
    new TypeError('password is hunter2'),
    'a string',
    null,
    new GraphQLError('secret', { path: ['a'], originalError: new Error('secret') }),
  ])('is an id and nothing else when nobody expected it: %s', (error) => {
    const shown = publicError(mask(error))
    const errorId = shown.extensions?.['errorId']
    expect(shown.extensions).toEqual({ code: 'INTERNAL', errorId: expect.stringMatching(/^[0-9a-f-]{36}$/) })
    expect(JSON.stringify(shown)).not.toMatch(/hunter2|secret|stack/)
    expect(lines).toHaveLength(1)
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ level: 50, errorId })
  })

  it('of graphql-js about the request is that error', () => {
    const error = new GraphQLError('Variable "$id" of required type "ID!" was not provided.')
    expect(publicError(mask(error))).toEqual({ message: error.message, extensions: { code: 'BAD_USER_INPUT' } })
    expect(mask(error).extensions['http']).toEqual({ spec: true, status: 400 })
  })

  it('keeps the HTTP status to itself', () => {
    expect(mask(badRequest('Too long.', 413)).extensions['http']).toEqual({ status: 413 })
    expect(publicError(mask(badRequest('Too long.', 413))).extensions).toEqual({ code: 'BAD_USER_INPUT' })
  })
})
