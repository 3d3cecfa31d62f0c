/**
 * Checks untrusted values against a TypeBox schema and says what is wrong in a sentence that names the path and the
 * value.
 *
 * A TypeBox schema is JSON Schema itself, so what is checked here is word by word what `rpc.discover` publishes. The
 * first fault is reported, unknown keys before missing ones before wrong values: a misspelt key is the usual cause of
 * both.
 *
 *   ports[2].access: 4095 is not 1..4094
 *   ports[0].acess: unknown key (known are name, kind, access, …)
 *
 * A schema's `description` is written so that it completes "VALUE is not …"; `errorText` says it where they must
 * differ.
 */
import type { Static, TSchema } from 'typebox'
import { Value } from 'typebox/value'
import { Failure } from './failure.js'

interface SchemaFault {
  keyword: string
  schemaPath: string
  instancePath: string
  params: Record<string, unknown>
}

interface JsonSchema {
  description?: string
  errorText?: string
  properties?: Record<string, JsonSchema>
  minimum?: number
  maximum?: number
  type?: string
  anyOf?: JsonSchema[]
  const?: unknown
  enum?: unknown[]
  [key: string]: unknown
}

/** Returns the value typed, or throws ERR_INVALID. `path` is put in front of the paths in messages. */
export function check<T extends TSchema>(schema: T, value: unknown, path = ''): Static<T> {
  if (Value.Check(schema, value)) return value
  const faults = [...Value.Errors(schema, value)] as unknown as SchemaFault[]
  throw explain(schema as unknown as JsonSchema, value, faults, path)
}

/** `ports` + `access` = `ports.access`; numbers become `[2]`. */
export function join(path: string, key: string | number): string {
  if (typeof key === 'number') return `${path}[${key}]`
  return path === '' ? key : `${path}.${key}`
}

/** A refusal of one value: ERR_INVALID with `path: sentence`. */
export function invalid(path: string, sentence: string): Failure {
  return new Failure('ERR_INVALID', path === '' ? sentence : `${path}: ${sentence}`, path === '' ? undefined : path)
}

/** A value as it stands in a message: short, on one line. */
export function quote(value: unknown): string {
  if (value === undefined) return 'nothing'
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? typeof value)
  const plain = text.replace(/\p{Cc}/gu, '?')
  const short = plain.length > 80 ? `${plain.slice(0, 77)}...` : plain
  return typeof value === 'string' && (short === '' || /\s/.test(short)) ? `"${short}"` : short
}

function explain(schema: JsonSchema, value: unknown, faults: SchemaFault[], prefix: string): Failure {
  const unknown = faults.find((fault) => fault.keyword === 'additionalProperties')
  if (unknown !== undefined) {
    const key = (unknown.params.additionalProperties as string[])[0] ?? ''
    const known = Object.keys(subschema(schema, unknown.schemaPath)?.properties ?? {})
    const at = join(instance(prefix, unknown.instancePath), key)
    return invalid(at, known.length === 0 ? 'unknown key' : `unknown key (known are ${known.join(', ')})`)
  }
  const missing = faults.find((fault) => fault.keyword === 'required')
  if (missing !== undefined) {
    const key = (missing.params.requiredProperties as string[])[0] ?? ''
    return invalid(join(instance(prefix, missing.instancePath), key), 'is missing')
  }
  const first = faults[0]
  if (first === undefined) return invalid(prefix, 'is not valid')
  // The alternatives of an anyOf are reported before the anyOf itself, which says more.
  const fault = faults.find((f) => f.keyword === 'anyOf' && f.instancePath === first.instancePath) ?? first
  const at = instance(prefix, fault.instancePath)
  return invalid(
    at,
    `${quote(lookUp(value, fault.instancePath))} ${wanted(subschema(schema, fault.schemaPath), fault)}`,
  )
}

function wanted(schema: JsonSchema | undefined, fault: SchemaFault): string {
  if (schema?.errorText !== undefined) return `is not ${schema.errorText}`
  const { minimum, maximum } = schema ?? {}
  if (minimum !== undefined && maximum !== undefined) return `is not ${minimum}..${maximum}`
  const choices = schema?.enum ?? schema?.anyOf?.map((one) => one.const).filter((one) => one !== undefined)
  if (choices !== undefined && choices.length > 0) return `is not one of ${choices.join(', ')}`
  if (schema?.description !== undefined) return `is not ${schema.description}`
  if (fault.keyword === 'type') return `is not ${article(String(fault.params.type))}`
  return 'is not valid'
}

const article = (type: string): string => (/^[aeio]/.test(type) ? `an ${type}` : `a ${type}`)

const steps = (pointer: string): string[] =>
  pointer
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))

function instance(prefix: string, pointer: string): string {
  return steps(pointer).reduce((path, step) => join(path, /^\d+$/.test(step) ? Number(step) : step), prefix)
}

function lookUp(value: unknown, pointer: string): unknown {
  return steps(pointer).reduce<unknown>(
    (at, step) => (typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[step] : undefined),
    value,
  )
}

function subschema(schema: JsonSchema, pointer: string): JsonSchema | undefined {
  return steps(pointer).reduce<unknown>(
    (at, step) => (typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[step] : undefined),
    schema,
  ) as JsonSchema | undefined
}
