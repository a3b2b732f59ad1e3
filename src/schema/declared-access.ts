import SchemaBuilder, { BasePlugin, type PothosOutputFieldConfig, type PothosTypeConfig, type SchemaTypes } from '@pothos/core'

declare global {
  namespace PothosSchemaTypes {
    interface Plugins<Types extends SchemaTypes> {
      declaredAccess: DeclaredAccess<Types>
    }
  }
}

export const declaredAccess = 'declaredAccess'

const roots: ReadonlySet<string> = new Set(['Query', 'Mutation', 'Subscription'])

/**
 * Deny by default: building the schema throws when an object type or a field of Query, Mutation or Subscription
 * does not say, by `authScopes`, who may use it.
 */
class DeclaredAccess<Types extends SchemaTypes> extends BasePlugin<Types> {
  override onTypeConfig(type: PothosTypeConfig): PothosTypeConfig {
    if (type.kind === 'Object') requireDeclaration(type.name, type.pothosOptions)
    return type
  }

  override onOutputFieldConfig(field: PothosOutputFieldConfig<Types>): PothosOutputFieldConfig<Types> {
    if (roots.has(field.kind)) requireDeclaration(`${field.parentType}.${field.name}`, field.pothosOptions)
    return field
  }
}

function requireDeclaration(name: string, options: object): void {
  const { authScopes } = options as { authScopes?: unknown }
  if (authScopes && (typeof authScopes === 'function' || Object.values(authScopes).includes(true))) return
  throw new Error(`${name} does not declare who may use it: give it authScopes.`)
}

SchemaBuilder.registerPlugin(declaredAccess, DeclaredAccess)
