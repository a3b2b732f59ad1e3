/** Most statements kept prepared on one connection; further ones get the empty name, which is no name. */
const mostNames = 1_000

/**
 * Names for prepared statements: one per SQL text, for as long as the process lives. Bounded, since each name
 * costs memory in every backend.
 */
export function statementNames(): (query: { sql: string }) => string {
  const names = new Map<string, string>()
  return ({ sql }) => {
    const known = names.get(sql)
    if (known !== undefined) return known
    if (names.size >= mostNames) return ''
    const name = `b${names.size}`
    names.set(sql, name)
    return name
  }
}
