import type { Outcome } from './lane.ts'
import type { Mutant } from './mutant.ts'

/** Prints each mutant as it is tried, and at the end how many of each kind survived. Sets the exit code when one did. */
export class Score {
  readonly #total: number
  readonly #startedAt = performance.now()
  readonly #tried: { mutant: Mutant; outcome: Outcome }[] = []

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
    this.say(`\n  ${'kind'.padEnd(28)} mutants  killed  survived`)
    for (const [kind, tried] of Map.groupBy(this.#tried, ({ mutant }) => mutant.kind)) {
      this.say(this.#row(kind, tried.length, tried.filter(({ outcome }) => outcome === null).length))
    }
    this.say(this.#row('all', this.#tried.length, survivors.length))
    for (const { mutant } of survivors) this.say(`SURVIVED  ${mutant.kind}: ${mutant.name}`)
    const killed = this.#tried.length - survivors.length
    const percent = ((100 * killed) / Math.max(this.#tried.length, 1)).toFixed(1)
    this.say(`\nMutation score ${percent} %, in ${((performance.now() - this.#startedAt) / 1000).toFixed(0)} s.`)
    if (survivors.length > 0) process.exitCode = 1
  }

  #row(name: string, tried: number, survived: number): string {
    const [all, killed, left] = [tried, tried - survived, survived].map((count) => String(count).padStart(7))
    return `  ${name.padEnd(28)} ${all} ${killed} ${left}`
  }
}
