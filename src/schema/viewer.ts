import type { Principal } from '../domain/authenticate.ts'
import { Unauthenticated } from '../domain/errors.ts'
import { builder } from './builder.ts'
import { Role } from './role.ts'
import { Tenant } from './tenant.ts'

const anyone = { endUser: true, operator: true } as const

const Viewer = builder.objectRef<Principal>('Viewer').implement({
  description: 'Whoever sent the request.',
  authScopes: anyone,
  fields: (t) => ({
    tenant: t.field({
      type: Tenant,
      nullable: true,
      description: 'The tenant you belong to. Null for operators.',
      resolve: (viewer) => (viewer.kind === 'tenant' ? viewer.scope.tenant : null),
    }),
    role: t.field({
      type: Role,
      description: 'What you may do.',
      resolve: (viewer) => (viewer.kind === 'tenant' ? viewer.scope.actor.role : 'OPERATOR'),
    }),
    userId: t.string({
      nullable: true,
      description: "The end user you are, in the tenant's own words. Null unless your role is END_USER.",
      resolve: (viewer) => (viewer.kind === 'tenant' ? viewer.scope.actor.userId : null),
    }),
    actorName: t.string({
      description: 'The name of the credential you use.',
      resolve: (viewer) => (viewer.kind === 'tenant' ? viewer.scope.actor.name : viewer.operator.operator.name),
    }),
  }),
})

builder.queryField('viewer', (t) =>
  t.field({
    type: Viewer,
    description: 'Who am I?',
    authScopes: anyone,
    resolve: (_root, _args, { principal }) => {
      if (!principal) throw new Unauthenticated()
      return principal
    },
  }),
)
