import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { createVitest, type TestModule, type Vitest } from 'vitest/node'
import config from '../../../vitest.config.ts'
import { adminQuery, withDatabase } from '../../support/database-url.ts'
import type { TestServer } from '../../support/global-setup.ts'
import type { WallTag } from '../tags.ts'
import { filterPath } from './filter-mutants.ts'
import { type Mutant, testsBehind } from './mutant.ts'

/** The test that failed, with the walls it stands behind; null when all passed. */
export type Outcome = { killedBy: string; behind: WallTag } | null

const root = join(import.meta.dirname, '../../..')

/** A running vitest that tries one mutant after the other. What is mutated is its own: a database, and what it loads as the filter. */
export class Lane {
  readonly #server: TestServer
  readonly #vitest: Vitest
  readonly #loaded: { filter: string | null }

  private constructor(server: TestServer, vitest: Vitest, loaded: { filter: string | null }) {
    this.#server = server
    this.#vitest = vitest
    this.#loaded = loaded
  }

  static async open(server: TestServer): Promise<Lane> {
    const loaded: { filter: string | null } = { filter: null }
    const transform = (_: string, id: string) => (id === filterPath ? loaded.filter : null)
    const { test, ...vite } = config
    const options = {
      ...{ ...test, config: false as const, root, watch: false, globalSetup: [], maxWorkers: 1, bail: 1, reporters: [{}] },
      env: { EVERY_CASE: '1' },
      // What is loaded as the filter changes from mutant to mutant.
      fsModuleCache: false,
    }
    const plugin = { name: 'mutated filter', enforce: 'pre' as const, transform }
    return new Lane(server, await createVitest(options, { ...vite, plugins: [plugin] }), loaded)
  }

  /** Runs the mutant's tests, wall after wall, until one fails. */
  async try(mutant: Mutant): Promise<Outcome> {
    const { change, witnesses } = mutant
    const database = 'sql' in change ? await this.#mutatedDatabase(change.sql) : null
    this.#loaded.filter = 'filter' in change ? change.filter : null
    this.#vitest.invalidateFile(filterPath)
    try {
      for (const wall of witnesses) {
        const killedBy = await this.failing(wall, mutant, database ?? this.#server.adminUrl)
        if (killedBy !== null) return { killedBy, behind: wall }
      }
      return null
    } finally {
      this.#loaded.filter = null
      if (database)
        await adminQuery(withDatabase(database, 'postgres'), `drop database ${new URL(database).pathname.slice(1)} with (force)`)
    }
  }

  /** The first of the mutant's tests behind the wall that fails; null when none does. */
  async failing(
    wall: WallTag,
    mutant: Pick<Mutant, 'table' | 'between'>,
    template = this.#server.adminUrl,
  ): Promise<string | null> {
    const project = this.#vitest.getRootProject()
    project.provide('testServer', { ...this.#server, adminUrl: template })
    const tests = testsBehind(wall, mutant)
    const files = tests.files.map((file) => join(root, file))
    const { testModules, unhandledErrors } = await this.#vitest.runTestSpecifications(
      files.map((file) => project.createSpecification(file, { testTagsFilter: [tests.tagsFilter] })),
    )
    const failures = testModules.filter(({ moduleId }) => files.includes(moduleId)).map(failureIn)
    const unexpected = unhandledErrors.map((error) => (error instanceof Error ? error.message : String(error)))
    return [...failures, ...unexpected].find((failure) => failure !== null) ?? null
  }

  async close(): Promise<void> {
    await this.#vitest.close()
  }

  /** A template with the change in it, which the tests clone instead of the run's own. */
  async #mutatedDatabase(sql: string): Promise<string> {
    const name = `mutant_${randomBytes(8).toString('hex')}`
    const template = new URL(this.#server.adminUrl).pathname.slice(1)
    const url = withDatabase(this.#server.adminUrl, name)
    await adminQuery(withDatabase(url, 'postgres'), `create database ${name} template ${template} strategy file_copy`)
    await adminQuery(url, sql)
    return url
  }
}

/** Throws when the file could not be loaded: then nothing was tried. */
function failureIn(module: TestModule): string | null {
  const [broken] = module.errors()
  if (broken) throw new Error(`${module.relativeModuleId} could not be loaded: ${broken.message}`)
  for (const test of module.children.allTests('failed')) return `${module.relativeModuleId} › ${test.fullName}`
  for (const suite of module.children.allSuites()) {
    const [error] = suite.errors()
    if (error) return `${module.relativeModuleId} › ${suite.fullName}, being prepared: ${error.message}`
  }
  return null
}
