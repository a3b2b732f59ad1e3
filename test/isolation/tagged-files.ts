import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { rules } from './rules.ts'

const root = join(import.meta.dirname, '../..')

/** The test files that carry each rule's tag, by the tag. */
export function taggedFiles(): Map<string, string[]> {
  const files = globSync('test/**/*.test.ts', { cwd: root }).toSorted()
  const sources = files.map((file) => ({ file, source: readFileSync(join(root, file), 'utf8') }))
  return new Map(rules.map(({ tag }) => [tag, sources.flatMap(({ file, source }) => (carries(source, tag) ? [file] : []))]))
}

/** For a whole file, as `// @module-tag rule-1`; for one test or a group, as `{ tags: ['rule-1'] }`. */
function carries(source: string, tag: string): boolean {
  return source.includes(`'${tag}'`) || new RegExp(`^// @module-tag ${tag}$`, 'm').test(source)
}
