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
    const fate = outcome ? `killed by ${outcome.killedBy}` : 'SURVIVED'
    this.say(`${place}  ${mutant.kind}: ${mutant.name}\n${' '.repeat(place.length)}  ${fate}, ${seconds.toFixed(1)} s`)
  }

  end(): void {
    const survivors = this.#tried.filter(({ outcome }) => outcome === null)
    this.say(`\n  ${'kind'.padEnd(28)} mutants  killed  survived  seen by`)
    for (const [kind, tried] of Map.groupBy(this.#tried, ({ mutant }) => mutant.kind)) this.say(row(kind, tried))
    this.say(row('all', this.#tried))
    for (const { mutant } of survivors) this.say(`SURVIVED  ${mutant.kind}: ${mutant.name}`)
    const percent = 100 * (1 - survivors.length / Math.max(this.#tried.length, 1))
    // Rounded down: one survivor is not 100 %.
    const shown = (Math.floor(percent * 10) / 10).toFixed(1)
    this.say(`\nMutation score ${shown} %, in ${((performance.now() - this.#startedAt) / 1000).toFixed(0)} s.`)
    // Vitest has set it for the tests that failed, which they should.
    process.exitCode = survivors.length > 0 ? 1 : 0
  }
}

function row(name: string, tried: Tried[]): string {
  const killed = tried.flatMap(({ outcome }) => outcome ?? [])
  const counts = [tried.length, killed.length, tried.length - killed.length].map((count) => String(count).padStart(8))
  const walls = [...Map.groupBy(killed, ({ behind }) => behind)].map(([wall, all]) => `${wall} ${all.length}`)
  return `  ${name.padEnd(27)} ${counts.join('')}    ${walls.join(', ')}`
}
