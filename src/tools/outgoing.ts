import { ValidationProblem } from '../domain/errors.ts'
import type { Tool } from '../domain/ports.ts'
import { cleanJson, type JsonObject } from '../domain/text.ts'
import type { ToolApproval } from '../domain/tool-definition.ts'
import { argumentsChecker, mostSchemaBytes, refusalOfSchema } from './argument-schema.ts'

type Approval = { approval: ToolApproval; approvalWhen: JsonObject | null }

/** Whether a person has to agree, checked; else throws a ValidationProblem that names the field below `path`. */
export function checkApproval(
  path: readonly string[],
  approval: ToolApproval,
  approvalWhen: Record<string, unknown> | null | undefined,
): Approval {
  const at = [...path, 'approvalWhen']
  if ((approval === 'WHEN') !== (approvalWhen != null))
    throw new ValidationProblem(at, 'It goes with the approval WHEN, and with no other.')
  return { approval, approvalWhen: approvalWhen == null ? null : checkSchema(at, approvalWhen) }
}

/** The schema, when it can be stored and used; else throws a ValidationProblem at `path`. */
export function checkSchema(path: readonly string[], schema: Record<string, unknown>): JsonObject {
  const refusal = whyNot(schema)
  if (refusal !== null) throw new ValidationProblem(path, refusal)
  return schema as JsonObject
}

/** Why a schema can not be stored or used, in a sentence; null when it can. */
export function whyNot(schema: Record<string, unknown>, options?: { lenient: boolean }): string | null {
  return refusalOfText(schema) ?? refusalOfSchema(schema, options)
}

function refusalOfText(json: Record<string, unknown>): string | null {
  try {
    cleanJson('schema', json, { max: mostSchemaBytes })
    return null
  } catch (error) {
    if (error instanceof ValidationProblem) return error.message
    throw error
  }
}

/** As `Tool` wants it. */
export function asksFirst({ approval, approvalWhen }: Approval): Tool['asksFirst'] {
  if (approvalWhen === null) return () => approval !== 'NEVER'
  const differs = argumentsChecker(approvalWhen)
  return (args) => differs(args) === null
}

/** `value`, or `fallback` when there is none; throws a ValidationProblem at `path` unless it is a whole number from `least` to `most`. */
export function checkWhole(
  path: readonly string[],
  value: number | null | undefined,
  { fallback, least, most }: { fallback: number; least: number; most: number },
): number {
  const number = value ?? fallback
  if (Number.isInteger(number) && number >= least && number <= most) return number
  throw new ValidationProblem(
    path,
    `The value must be a whole number from ${least.toLocaleString('en')} to ${most.toLocaleString('en')}.`,
  )
}

/** Bounds on `timeoutMs`, in milliseconds: no call of a tool takes longer. */
export const timeouts = { fallback: 15_000, least: 100, most: 30_000 }
