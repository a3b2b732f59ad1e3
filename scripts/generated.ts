// Writes everything in the repository that is written by a program, and says what changed. With --check, a change is a
// failure: the committed files were out of date. They are correct afterwards either way.
import { execFileSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'

const outputs = ['src/data/generated/**/*.ts', 'schema.graphql', 'test/generated/**/*.ts']
const generators: [string, ...string[]][] = [
  ['npx', '--yes', 'prisma@7.10.1', 'generate'],
  ['node', 'scripts/print-schema.ts'],
  ['graphql-codegen'],
]

function snapshot(): Map<string, string> {
  return new Map(globSync(outputs).map((file) => [file, readFileSync(file, 'utf8')]))
}

const before = snapshot()
for (const [command, ...args] of generators) execFileSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] })
const after = snapshot()

const files = new Set([...before.keys(), ...after.keys()])
const changed = [...files].filter((file) => before.get(file) !== after.get(file)).sort()
for (const file of changed) process.stdout.write(`changed: ${file}\n`)
if (changed.length > 0 && process.argv.includes('--check')) {
  process.stderr.write('These generated files were out of date. They are up to date now: commit them.\n')
  process.exitCode = 1
}
