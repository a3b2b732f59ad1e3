#!/usr/bin/env node
// A Prisma generator (JSON-RPC by lines, requests on stdin, answers on stderr) that writes what the tenant filter
// and what goes through all tables must know of the data model and the client does not tell at run time: names of tables, keys, which
// side of a relation holds its key, whether it is a list, and the names of compound unique keys.
import { writeFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'

type Field = {
  name: string
  kind: string
  type: string
  isId: boolean
  isList: boolean
  isRequired: boolean
  relationFromFields?: string[]
}
type Key = { name: string | null; fields: string[] }
type Model = { name: string; dbName: string | null; fields: Field[]; primaryKey: Key | null; uniqueIndexes: Key[] }
type Request = {
  id: number
  method: string
  params: { generator: { output: { value: string } }; dmmf: { datamodel: { models: Model[] } } }
}

function describe(model: Model) {
  const relations = model.fields.filter((field) => field.kind === 'object')
  const keys = [model.primaryKey, ...model.uniqueIndexes].filter((key) => key !== null && key.fields.length > 1)
  return {
    table: model.dbName ?? model.name,
    key: model.primaryKey?.fields ?? model.fields.filter((field) => field.isId).map((field) => field.name),
    scalars: model.fields.filter((field) => field.kind !== 'object').map((field) => field.name),
    relations: Object.fromEntries(
      relations.map(({ name, type, isList, isRequired, relationFromFields }) => [
        name,
        { model: type, list: isList, required: isRequired, from: relationFromFields ?? [] },
      ]),
    ),
    compoundKeys: Object.fromEntries(keys.map((key) => [key?.name ?? key?.fields.join('_'), key?.fields])),
  }
}

async function generate({ generator, dmmf }: Request['params']): Promise<null> {
  const models = Object.fromEntries(dmmf.datamodel.models.map((model) => [model.name, describe(model)]))
  const source = `// Written by prisma/data-model-generator.ts; do not edit.
export type Relation = { model: string; list: boolean; required: boolean; from: readonly string[] }
export type ModelShape = {
  table: string
  /** The fields of the primary key. */
  key: readonly string[]
  scalars: readonly string[]
  relations: Readonly<Record<string, Relation>>
  compoundKeys: Readonly<Record<string, readonly string[]>>
}

export const dataModel: Readonly<Record<string, ModelShape>> = ${JSON.stringify(models, null, 2)}
`
  await writeFile(generator.output.value, source)
  return null
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params }: Request = JSON.parse(line)
  const manifest = { prettyName: 'Data model of the tenant filter', defaultOutput: '../src/data/generated/data-model.ts' }
  const result = method === 'getManifest' ? { manifest } : await generate(params)
  process.stderr.write(`${JSON.stringify({ jsonrpc: '2.0', result, id })}\n`)
}
