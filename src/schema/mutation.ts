import type { FieldMap, InputFieldMap, InputShapeFromFields } from '@pothos/core'
import type { QuotaReading } from '../domain/admission.ts'
import type { OperatorScope } from '../domain/authenticate.ts'
import { Forbidden, LimitReached, Unauthenticated } from '../domain/errors.ts'
import { requireWritable, type Scope } from '../domain/scope.ts'
import { builder } from './builder.ts'
import { type Context, operatorOf, scopeOf } from './context.ts'
import { attempt, problemTypes, Refusal } from './problem.ts'
import { quotaNotes } from './quota-notes.ts'

type Types = (typeof builder)['$inferSchemaTypes']

type MutationOptions<Actor, Input extends InputFieldMap, Payload extends object> = {
  /** What it does, who may call it. */
  description: string
  input: (t: PothosSchemaTypes.InputFieldBuilder<Types, 'InputObject'>) => Input
  resolve: (actor: Actor, input: InputShapeFromFields<Input>) => Promise<Payload>
  payload: (t: PothosSchemaTypes.ObjectFieldBuilder<Types, Payload>) => FieldMap
  /**
   * Whether it makes sure itself, by the statement that has its effect, that whoever calls it still may, and that the tenant takes changes: see
   * `checkingAccess`. Who calls need not be asked for before, then, where that was known once.
   */
  checksAccess?: boolean
  /** What the tenant has used since, when the mutation counts against its limits and knows. */
  quota?: (payload: Payload) => QuotaReading | null
}

type TenantAccess = { [scope in 'endUser' | 'member' | 'admin']?: true }

/**
 * Defines the mutation `verbNoun` with its types: `VerbNounInput`, `VerbNounPayload` and `VerbNounResult`, the union of
 * the payload and every problem. A caller whose role does not suffice gets the problem `Forbidden`, not an error.
 */
export function mutation<Input extends InputFieldMap, Payload extends object>(
  verbNoun: string,
  { authScopes, ...options }: MutationOptions<Scope, Input, Payload> & { authScopes: TenantAccess },
): void {
  define(verbNoun, authScopes, options.checksAccess ? scopeOf : writableScopeOf, options)
}

/** Defines a mutation of the platform's operators, as `mutation` does for tenants. */
export function operatorMutation<Input extends InputFieldMap, Payload extends object>(
  verbNoun: string,
  options: MutationOptions<OperatorScope, Input, Payload>,
): void {
  define(verbNoun, { operator: true }, operatorOf, options)
}

/** The tenant's scope, for a change. Throws Unavailable while there may be none. */
function writableScopeOf(context: Context): Scope {
  const scope = scopeOf(context)
  requireWritable(scope)
  return scope
}

function define<Actor, Input extends InputFieldMap, Payload extends object>(
  verbNoun: string,
  authScopes: TenantAccess | { operator: true },
  actorOf: (context: Context) => Actor,
  { description, input, resolve, payload, checksAccess = false, quota }: MutationOptions<Actor, Input, Payload>,
): void {
  // The casts: Pothos infers types from names and fields that are written out, and these are not.
  const VerbNoun = verbNoun.charAt(0).toUpperCase() + verbNoun.slice(1)
  const InputType = builder.inputType(`${VerbNoun}Input`, { description: `What ${verbNoun} takes.`, fields: input })
  const PayloadType = builder.objectRef<Payload>(`${VerbNoun}Payload`).implement({
    description: `What ${verbNoun} did.`,
    authScopes: 'operator' in authScopes ? authScopes : { endUser: true },
    fields: payload as never,
  })
  const Result = builder.unionType(`${VerbNoun}Result`, {
    description: `What ${verbNoun} did, or the problem that kept it from happening.`,
    types: [PayloadType, ...Object.values(problemTypes)] as never[],
    resolveType: (value: unknown) => (value instanceof Refusal ? problemTypes[value.problem.code].name : PayloadType.name),
  })
  builder.mutationField(verbNoun, (t) =>
    t.field({
      type: Result,
      description,
      authScopes,
      extensions: { checksAccess },
      unauthorizedResolver: (_root, _args, context) => {
        const { principal } = context
        if (!principal) throw new Unauthenticated()
        quotaNotes(context).fields += 1
        return new Refusal(new Forbidden()) as never
      },
      args: { input: t.arg({ type: InputType, required: true, description: 'What to do.' }) },
      resolve: (async (_root: unknown, args: object, context: Context) => {
        const notes = quotaNotes(context)
        notes.fields += 1
        const result = await attempt(async () =>
          resolve(actorOf(context), (args as { input: InputShapeFromFields<Input> }).input),
        )
        if (!(result instanceof Refusal)) notes.reading = quota?.(result) ?? notes.reading
        else if (result.problem instanceof LimitReached) notes.refused(result.problem)
        return result
      }) as never,
    }),
  )
}
