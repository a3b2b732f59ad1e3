/** One promise of isolation. Tests that prove it carry its tag. */
export type Rule = {
  tag: string
  /** What the table of `npm run test:isolation` calls it. */
  name: string
  title: string
}

/** Every promise of isolation, in the order of docs/isolation.md. One without a test fails the tests. */
export const rules: readonly Rule[] = [
  { tag: 'rule-1', name: '1', title: 'Tenant tables are behind a forced, restrictive policy' },
  { tag: 'rule-2', name: '2', title: 'The application role has no power past the policies' },
  { tag: 'rule-3', name: '3', title: 'Partitions are protected themselves' },
  { tag: 'rule-4', name: '4', title: 'The tenant is set for one transaction and never stays' },
  { tag: 'rule-5', name: '5', title: 'No tenant, an empty one and garbage see nothing' },
  { tag: 'rule-6', name: '6', title: 'A unit of work is one connection, all or nothing' },
  { tag: 'rule-7', name: '7', title: 'No input reaches Postgres as SQL' },
  { tag: 'rule-8', name: '8', title: 'Views and functions act as whoever calls them' },
  { tag: 'rule-9', name: '9', title: 'Foreign keys carry the tenant' },
  { tag: 'rule-10', name: '10', title: "Unique keys do not tell of another tenant's rows" },
  { tag: 'rule-11', name: '11', title: 'No row moves to another tenant' },
  { tag: 'rule-12', name: '12', title: "Another tenant's id is answered as an unknown one" },
  { tag: 'rule-13', name: '13', title: 'Redis keys, channels and streams are of one tenant' },
  { tag: 'rule-14', name: '14', title: 'Background work runs in the scope of its tenant' },
  { tag: 'rule-15', name: '15', title: 'A secret opens for its own tenant alone' },
  { tag: 'rule-16', name: '16', title: 'What declares no permission does not build' },
  { tag: 'rule-17', name: '17', title: 'Revoking and suspending end what is open' },
  { tag: 'rule-18', name: '18', title: 'End users of one tenant are walled from each other' },
  { tag: 'rule-19', name: '19', title: 'Every table is a tenant table or is named' },
  { tag: 'two-walls', name: 'walls', title: 'Either wall alone lets nothing through' },
  { tag: 'roles', name: 'roles', title: 'Each database role can do what its work needs' },
  { tag: 'authentication', name: 'keys', title: "A key's tenant is a claim; all refusals look alike" },
  { tag: 'async-context', name: 'context', title: 'Without a scope nothing is sent' },
  { tag: 'redis-logs-errors', name: 'traces', title: 'Redis, logs and errors hold no content of others' },
  { tag: 'edge-floods', name: 'edge', title: 'Floods are refused before any SQL' },
  { tag: 'edge-introspection', name: 'edge', title: 'Production answers no introspection and suggests nothing' },
  { tag: 'edge-csrf', name: 'edge', title: 'No page of another site can send a request' },
  { tag: 'edge-hijack', name: 'edge', title: 'No page of another site can open a socket' },
  { tag: 'edge-subscriptions', name: 'edge', title: 'Subscriptions are bounded by socket, tenant, process' },
  { tag: 'edge-slow-readers', name: 'edge', title: 'Slow readers are bounded, and can go on' },
  { tag: 'edge-errors', name: 'edge', title: 'Unexpected errors are masked under an id' },
  { tag: 'edge-ssrf', name: 'edge', title: 'Tools and webhooks reach no private address' },
  { tag: 'edge-redaction', name: 'edge', title: 'Secrets are redacted from tool output' },
]
