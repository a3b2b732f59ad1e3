import SchemaBuilder from '@pothos/core'
import ScopeAuthPlugin from '@pothos/plugin-scope-auth'
import type { TenantRole } from '../data/generated/enums.ts'
import { type Context, refusal } from './context.ts'
import { declaredAccess } from './declared-access.ts'

/** The one builder. It defines no types: they live in one file per noun. */
export const builder = new SchemaBuilder<{
  Context: Context
  DefaultFieldNullability: false
  Scalars: {
    ID: { Input: string; Output: string }
    DateTime: { Input: Date; Output: Date }
    BigInt: { Input: bigint; Output: bigint }
    JSONObject: { Input: Record<string, unknown>; Output: Record<string, unknown> }
  }
  /** A tenant's scope holds for that role and those above it (ADMIN > MEMBER > END_USER); `operator` stands apart. */
  AuthScopes: { endUser: boolean; member: boolean; admin: boolean; operator: boolean }
}>({
  // The first plugin wraps the others: what lacks a declaration never gets as far as being checked.
  plugins: [declaredAccess, ScopeAuthPlugin],
  defaultFieldNullability: false,
  scopeAuth: {
    authorizeOnSubscribe: true,
    authScopes: ({ principal }) => ({
      endUser: principal?.kind === 'tenant',
      member: principal?.kind === 'tenant' && staff.has(principal.scope.actor.role),
      admin: principal?.kind === 'tenant' && principal.scope.actor.role === 'ADMIN',
      operator: principal?.kind === 'operator',
    }),
    unauthorizedError: (_parent, context) => refusal(context),
  },
})

const staff: ReadonlySet<TenantRole> = new Set<TenantRole>(['MEMBER', 'ADMIN'])

builder.queryType({ description: 'Everything that can be read.' })
builder.mutationType({
  description: 'Everything that can be changed. Each answers its payload or the problem that kept it from happening.',
})
builder.subscriptionType({ description: 'Everything that can be followed live, over WebSocket or server-sent events.' })
