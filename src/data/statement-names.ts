/** Most statements kept prepared on one connection; further ones are sent without a name. */
const mostNames = 1_000

/**
 * Names for prepared statements: one per SQL text, for as long as the process lives. Bounded, since each name
 * costs memory in every backend.
 */
export function statementNames(): (query: { sql: string }) => string | undefined {
  const names = new Map<string, string>()
  return ({ sql }) => {
    const known = names.get(sql)
    if (known !== undefined || names.size >= mostNames) return known
    const name = `b${names.size}`
    names.set(sql, name)
    return name
  }
}
