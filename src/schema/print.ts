import { printSchema } from 'graphql'
import { schema } from './index.ts'

/** Prints the schema in its own language: what `schema.graphql` holds. */
process.stdout.write(`${printSchema(schema)}\n`)
