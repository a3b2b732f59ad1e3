/** The tables without a `tenant_id`, each with the reason. A table that is neither here nor a tenant table fails the tests. */
export const globalTables: Readonly<Record<string, string>> = {
  tenants: 'A tenant is its own row: the wall is on its id.',
  prices: 'What models cost is the same for all. Tenants may read it; the platform writes it.',
  plans: 'What tenants may use under each plan. Tenants may read it; the platform changes it.',
  operator_keys: 'Credentials of the platform itself, which belong to no tenant. Tenants cannot read them.',
  workers: 'Heartbeats of the processes that execute the runs of all tenants. Tenants cannot read them.',
  operator_idempotency_keys: "Answers to operators' mutations. Tenants cannot read them.",
  erasures: 'Certificates of tenants that are gone. Tenants cannot read them.',
  databases: 'Where tenants with a database of their own are. Tenants cannot read them.',
  tenant_moves: "How far a tenant's move to another database has come. Tenants cannot read them.",
  _prisma_migrations: 'Which migrations were applied. Only migrations use it.',
}
