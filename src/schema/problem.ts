import { Conflict, Problem as DomainProblem, Forbidden, NotFound, ValidationProblem } from '../domain/errors.ts'
import { builder } from './builder.ts'

/** The only place where expected failures become data: what `work` returns, or the problem it threw. */
export async function attempt<T>(work: () => Promise<T>): Promise<T | DomainProblem> {
  try {
    return await work()
  } catch (problem) {
    if (problem instanceof DomainProblem) return problem
    throw problem
  }
}

const anyone = { endUser: true, operator: true } as const

const ProblemCode = builder.enumType('ProblemCode', {
  description: 'The kind of a problem, for programs to act on.',
  values: {
    VALIDATION: { description: 'The input breaks a rule.' },
    NOT_FOUND: {
      description: 'There is no such thing here: it does not exist, or it is not yours. The two are never told apart.',
    },
    FORBIDDEN: { description: 'You may not do this.' },
    CONFLICT: { description: 'It contradicts what is already there.' },
  } satisfies Record<DomainProblem['code'], { description: string }>,
})

export const Problem = builder.interfaceRef<DomainProblem>('Problem').implement({
  description: 'A failure that is expected and can be handled. Select `message` and `code` on any result by `... on Problem`.',
  fields: (t) => ({
    message: t.exposeString('message', { description: 'What is wrong, in a sentence for people. Never repeats an id.' }),
    code: t.expose('code', { type: ProblemCode, description: 'What kind of problem it is.' }),
  }),
})

builder.objectType(ValidationProblem, {
  name: 'ValidationProblem',
  description: 'The input breaks a rule. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
  fields: (t) => ({
    path: t.stringList({
      description: 'The input field that breaks the rule, from the input down.',
      resolve: (problem) => [...problem.path],
    }),
  }),
})

builder.objectType(NotFound, {
  name: 'NotFound',
  description: 'Something the input names does not exist here. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
})

builder.objectType(Forbidden, {
  name: 'Forbidden',
  description: 'Your role, or the user you act for, does not allow this. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
})

builder.objectType(Conflict, {
  name: 'Conflict',
  description:
    'It contradicts what is already there, as in an idempotency key that was used with another input. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
})

/** Every problem a mutation can answer with, by its code. */
export const problems = [ValidationProblem, NotFound, Forbidden, Conflict]

const typeNames: Record<DomainProblem['code'], string> = {
  VALIDATION: 'ValidationProblem',
  NOT_FOUND: 'NotFound',
  FORBIDDEN: 'Forbidden',
  CONFLICT: 'Conflict',
}

/** The name of the problem's type. */
export function problemTypeOf(problem: DomainProblem): string {
  return typeNames[problem.code]
}
