import { isEquivalent } from './equivalents.ts'
import type { Outcome } from './lane.ts'
import type { Mutant } from './mutant.ts'

type Tried = { mutant: Mutant; outcome: Outcome }

/** Prints each mutant as it is tried, and at the end how many of each kind survived. Sets the exit code when one did. */
export class Score {
  readonly #total: number
  readonly #startedAt = performance.now()
  readonly #tried: Tried[] = []

  constructor(total: number) {
    this.#total = total
  }

  say(line: string): void {
    process.stdout.write(`${line}\n`)
  }

  add(mutant: Mutant, outcome: Outcome, seconds: number): void {
    this.#tried.push({ mutant, outcome })
    const place = `${this.#tried.length}/${this.#total}`.padStart(2 * String(this.#total).length + 1)
    const fate = outcome ? `killed by ${outcome.killedBy}` : isEquivalent(mutant) ? 'equivalent' : 'SURVIVED'
    this.say(`${place}  ${mutant.kind}: ${mutant.name}\n${' '.repeat(place.length)}  ${fate}, ${seconds.toFixed(1)} s`)
  }

  end(): void {
    const survivors = this.#tried.filter(survived)
    const excused = this.#tried.filter(({ mutant, outcome }) => outcome !== null && isEquivalent(mutant))
    this.say(`\n  ${'kind'.padEnd(27)}  mutants  killed  equivalent  survived  seen by`)
    for (const [kind, tried] of Map.groupBy(this.#tried, ({ mutant }) => mutant.kind)) this.say(row(kind, tried))
    this.say(row('all', this.#tried))
    for (const { mutant } of survivors) this.say(`SURVIVED  ${mutant.kind}: ${mutant.name}`)
    for (const { mutant } of excused) this.say(`KILLED, though test/isolation/mutants/equivalents.ts excuses it  ${mutant.name}`)
    const counted = this.#tried.filter(({ outcome, mutant }) => outcome !== null || !isEquivalent(mutant)).length
    // Rounded down: one survivor is not 100 %.
    const percent = Math.floor(1000 * (1 - survivors.length / Math.max(counted, 1))) / 10
    this.say(`\nMutation score ${percent.toFixed(1)} %, in ${((performance.now() - this.#startedAt) / 1000).toFixed(0)} s.`)
    // Vitest has set it for the tests that failed, which they should.
    process.exitCode = survivors.length + excused.length > 0 ? 1 : 0
  }
}

function survived({ mutant, outcome }: Tried): boolean {
  return outcome === null && !isEquivalent(mutant)
}

function row(name: string, tried: Tried[]): string {
  const killed = tried.flatMap(({ outcome }) => outcome ?? [])
  const left = tried.filter(survived).length
  const walls = [...Map.groupBy(killed, ({ behind }) => behind)].map(([wall, all]) => `${wall} ${all.length}`)
  const cells = [tried.length, killed.length, tried.length - killed.length - left, left]
  const widths = [9, 8, 12, 10]
  return `  ${name.padEnd(27)}${cells.map((cell, index) => String(cell).padStart(widths[index] ?? 0)).join('')}  ${walls.join(', ')}`
}
