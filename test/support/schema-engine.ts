import { readdir, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { PrismaPg } from '@prisma/adapter-pg'
import { bindMigrationAwareSqlAdapterFactory, ColumnTypeEnum } from '@prisma/driver-adapter-utils'
import type { DiffTarget, MigrationList } from '@prisma/schema-engine-wasm/schema_engine_bg'
import * as bindings from '@prisma/schema-engine-wasm/schema_engine_bg'
import pg from 'pg'

// Part of Node, but its types come with those of browsers.
declare const WebAssembly: {
  instantiate(bytes: Uint8Array, imports: object): Promise<{ instance: { exports: Record<string, unknown> } }>
}

const prismaDirectory = new URL('../../prisma/', import.meta.url)
const path = 'schema.prisma'
const filters = { externalTables: [], externalEnums: [] }

export type SchemaEngine = {
  /** The SQL that would make the database equal to `schema`; null when it is. */
  difference(schema: string): Promise<string | null>
  /** What `prisma migrate status` looks at: how the database's history relates to the migration files. */
  diagnose(): Promise<unknown>
  /** What `prisma migrate deploy` does. Resolves to the names it applied. */
  deploy(): Promise<string[]>
  close(): Promise<void>
}

export function readSchema(): Promise<string> {
  return readFile(new URL('schema.prisma', prismaDirectory), 'utf8')
}

/** Prisma's own migration engine, in its WebAssembly build, on the database of `url`. */
export async function openSchemaEngine(url: string): Promise<SchemaEngine> {
  await instantiate()
  const content = await readSchema()
  const pool = new CatalogPool({ connectionString: url, max: 1 })
  const factory = bindMigrationAwareSqlAdapterFactory(new CatalogAdapterFactory(pool))
  const log = () => undefined
  const engine = await bindings.SchemaEngine.new({ datamodels: [[path, content]] }, log, factory)
  return {
    difference: async (schema) => {
      const from: DiffTarget = { tag: 'schemaDatasource', files: [{ path, content }], configDir: fileURLToPath(prismaDirectory) }
      const to: DiffTarget = { tag: 'schemaDatamodel', files: [{ path, content: schema }] }
      const { exitCode, stdout } = await engine.diff({ from, to, script: true, exitCode: true, filters })
      return exitCode === 0 ? null : stdout
    },
    diagnose: async () =>
      engine.diagnoseMigrationHistory({ migrationsList: await listMigrations(), optInToShadowDatabase: false, filters }),
    deploy: async () => (await engine.applyMigrations({ migrationsList: await listMigrations(), filters })).appliedMigrationNames,
    close: () => pool.end(),
  }
}

/** Done here and not by importing the package, because Node prints a warning when it imports WebAssembly. */
async function instantiate(): Promise<void> {
  const file = createRequire(import.meta.url)
    .resolve('@prisma/schema-engine-wasm/schema_engine_bg')
    .replace(/\.js$/, '.wasm')
  const { instance } = await WebAssembly.instantiate(await readFile(file), { './schema_engine_bg.js': bindings })
  bindings.__wbg_set_wasm(instance.exports)
  ;(instance.exports['__wbindgen_start'] as () => void)()
}

async function listMigrations(): Promise<MigrationList> {
  const directory = new URL('migrations/', prismaDirectory)
  const names = (await readdir(directory)).filter((name) => name !== 'migration_lock.toml').sort()
  return {
    baseDir: fileURLToPath(directory),
    lockfile: { path: 'migration_lock.toml', content: await readFile(new URL('migration_lock.toml', directory), 'utf8') },
    shadowDbInitScript: '',
    migrationDirectories: await Promise.all(
      names.map(async (name) => {
        const value = await readFile(new URL(`${name}/migration.sql`, directory), 'utf8')
        return { path: name, migrationFile: { path: 'migration.sql', content: { tag: 'ok', value } } }
      }),
    ),
  }
}

const charType = 18
const textType = 25

/** The engine reads `"char"` columns of the catalogue, a type that Prisma's adapter does not know: it is passed off as text. */
class CatalogPool extends pg.Pool {
  /** Which columns of which rows those were. */
  readonly charColumns = new WeakMap<unknown[], number[]>()

  override async query(config: unknown): Promise<never> {
    const { fields, ...result } = await super.query(config as pg.QueryConfig)
    this.charColumns.set(
      result.rows,
      fields.flatMap((field, index) => (field.dataTypeID === charType ? index : [])),
    )
    const known = fields.map((field) => (field.dataTypeID === charType ? { ...field, dataTypeID: textType } : field))
    return { ...result, fields: known } as never
  }
}

/** Prisma's adapter, which then names such columns what they are. */
class CatalogAdapterFactory extends PrismaPg {
  readonly #pool: CatalogPool

  constructor(pool: CatalogPool) {
    super(pool)
    this.#pool = pool
  }

  override async connect() {
    const adapter = await super.connect()
    const queryRaw = adapter.queryRaw.bind(adapter)
    adapter.queryRaw = async (query) => {
      const result = await queryRaw(query)
      for (const index of this.#pool.charColumns.get(result.rows) ?? []) result.columnTypes[index] = ColumnTypeEnum.Character
      return result
    }
    return adapter
  }
}
