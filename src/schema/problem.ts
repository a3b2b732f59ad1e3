import { type BudgetExhausted, Problem as DomainProblem, type QuotaExceeded, type ValidationProblem } from '../domain/errors.ts'
import { builder } from './builder.ts'
import { LimitName } from './quota-limit.ts'

/** A problem as a value. The problem itself is an Error, and graphql-js throws those also when they are returned. */
export class Refusal {
  readonly problem: DomainProblem

  constructor(problem: DomainProblem) {
    this.problem = problem
  }
}

/** The only place where expected failures become data: what `work` returns, or the problem it threw. */
export async function attempt<T>(work: () => Promise<T>): Promise<T | Refusal> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof DomainProblem) return new Refusal(error)
    throw error
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
    QUOTA_EXCEEDED: { description: 'A limit on messages or sessions does not allow it.' },
    BUDGET_EXHAUSTED: { description: "The month's tokens do not allow it." },
  } satisfies Record<DomainProblem['code'], { description: string }>,
})

const Problem = builder.interfaceRef<Refusal>('Problem').implement({
  description: 'A failure that is expected and can be handled. Select `message` and `code` on any result by `... on Problem`.',
  fields: (t) => ({
    message: t.string({
      description: 'What is wrong, in a sentence for people. Never repeats an id.',
      resolve: ({ problem }) => problem.message,
    }),
    code: t.field({ type: ProblemCode, description: 'What kind of problem it is.', resolve: ({ problem }) => problem.code }),
  }),
})

const InvalidInput = builder.objectRef<{ problem: ValidationProblem }>('ValidationProblem').implement({
  description: 'The input breaks a rule. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
  fields: (t) => ({
    path: t.stringList({
      description: 'The input field that breaks the rule, from the input down.',
      resolve: ({ problem }) => [...problem.path],
    }),
  }),
})

const Missing = builder.objectRef<Refusal>('NotFound').implement({
  description: 'Something the input names does not exist here. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
})

const NotAllowed = builder.objectRef<Refusal>('Forbidden').implement({
  description: 'Your role, or the user you act for, does not allow this. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
})

const Contradiction = builder.objectRef<Refusal>('Conflict').implement({
  description:
    'It contradicts what is already there, as in an idempotency key that was used with another input. Nothing was changed.',
  interfaces: [Problem],
  authScopes: anyone,
})

type Limited = { problem: QuotaExceeded | BudgetExhausted }

const Scope = builder.enumType('QuotaScope', {
  description: 'What a limit is about.',
  values: {
    TENANT: { description: 'All that the tenant does, whoever does it.' },
    MESSAGE: { description: 'Each message by itself.' },
  },
})

const limitReached = (name: string, description: string) =>
  builder.objectRef<Limited>(name).implement({
    description,
    interfaces: [Problem],
    authScopes: anyone,
    fields: (t) => ({
      limit: t.field({ type: LimitName, description: 'Which limit.', resolve: ({ problem }) => problem.refusal.limit }),
      scope: t.field({
        type: Scope,
        description: 'What the limit is about.',
        resolve: ({ problem }) => (problem.refusal.limit === 'TOKENS_PER_MESSAGE' ? ('MESSAGE' as const) : ('TENANT' as const)),
      }),
      max: t.field({ type: 'BigInt', description: 'The limit.', resolve: ({ problem }) => BigInt(problem.refusal.max) }),
      remaining: t.field({
        type: 'BigInt',
        description: 'What is left of it.',
        resolve: ({ problem }) => BigInt(problem.refusal.remaining),
      }),
      retryAfterSeconds: t.int({
        nullable: true,
        description:
          'When to try again, in seconds from now: by then the limits allow it unless others were faster. Of sessions, and of tokens that answers under way hold, a guess. Null when the same input never succeeds.',
        resolve: ({ problem }) => problem.retryAfterSeconds,
      }),
      resetAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'The same as a time. Null when the same input never succeeds.',
        resolve: ({ problem: { refusal } }) => (refusal.retryAt === null ? null : new Date(refusal.retryAt)),
      }),
    }),
  })

const Exceeded = limitReached(
  'QuotaExceeded',
  'A limit on messages or on answers under way does not allow it. Nothing was changed, and it counts for nothing.',
)

const Exhausted = limitReached(
  'BudgetExhausted',
  "The tenant's tokens for the month are used up. Nothing was changed, and it counts for nothing.",
)

/** The type of each kind of problem. Any mutation may answer with any of them. */
export const problemTypes = {
  VALIDATION: InvalidInput,
  NOT_FOUND: Missing,
  FORBIDDEN: NotAllowed,
  CONFLICT: Contradiction,
  QUOTA_EXCEEDED: Exceeded,
  BUDGET_EXHAUSTED: Exhausted,
} satisfies Record<DomainProblem['code'], unknown>
