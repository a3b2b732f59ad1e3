import type { TenantRole } from '../data/generated/enums.ts'
import { ValidationProblem } from '../domain/errors.ts'
import { builder } from './builder.ts'

export type RoleName = TenantRole | 'OPERATOR'

export const Role = builder.enumType('Role', {
  description: 'What a credential may do.',
  values: {
    OPERATOR: { description: 'Runs the platform. Sees tenants, never their content.' },
    ADMIN: { description: 'Everything of its tenant.' },
    MEMBER: { description: "All of the tenant's conversations; no configuration, no keys." },
    END_USER: { description: 'One end user of the tenant: only the conversations of that user.' },
  } satisfies Record<RoleName, { description: string }>,
})

/** A role inside a tenant. Throws ValidationProblem for the platform's own. */
export function tenantRole(role: RoleName): TenantRole {
  if (role === 'OPERATOR') throw new ValidationProblem(['role'], 'A tenant has no operators: choose ADMIN, MEMBER or END_USER.')
  return role
}
