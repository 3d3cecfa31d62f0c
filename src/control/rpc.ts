/**
 * JSON-RPC 2.0: one text in, one text out, whatever carries it.
 *
 * Requests, notifications (no answer, not even an error) and batches; the calls of a batch run one after another in
 * their order. Parameters are checked against the schema of the method before its handler is called.
 *
 *   -32700 the text is not JSON, or nests deeper than 64     -32601 there is no such method
 *   -32600 it is no request, or a batch of more than 256     -32602 a parameter is wrong: data.code, data.path
 *   -32603 a defect of Weft, told in full by the log         -32000 refused: data.code tells why
 *
 * Standard: JSON-RPC 2.0 Specification (2013-01-04).
 */
import type { TSchema } from 'typebox'
import { type MethodName, type Methods, api } from './api.js'
import { Failure } from './failure.js'
import type { Log } from './log.js'
import { check, quote } from './schema.js'

const DEPTH_LIMIT = 64
const BATCH_LIMIT = 256

export const PARSE_ERROR = -32700
export const INVALID_REQUEST = -32600
export const METHOD_NOT_FOUND = -32601
export const INVALID_PARAMS = -32602
export const INTERNAL_ERROR = -32603
export const REFUSED = -32000

export type Handlers<Session> = {
  [M in MethodName]: (
    params: Methods[M]['params'],
    session: Session,
  ) => Promise<Methods[M]['result']> | Methods[M]['result']
}

export type Permit<Session> = (method: MethodName, params: unknown, session: Session) => void

type Id = string | number | null

interface Answer {
  jsonrpc: '2.0'
  id: Id
  result?: unknown
  error?: { code: number; message: string; data?: { code: string; path?: string } }
}

export class Dispatcher<Session> {
  private readonly handlers: Handlers<Session>
  private readonly document: object
  private readonly log: Log
  private readonly permit: Permit<Session>

  /** `document` is what `rpc.discover` returns. `permit` throws for a call that the session may not make. */
  constructor(handlers: Handlers<Session>, document: object, log: Log, permit: Permit<Session> = () => {}) {
    this.permit = permit
    this.handlers = handlers
    this.document = document
    this.log = log
  }

  /** The answer to a message, null if there is none to give. Never rejects. `onCall` is told of each call in it. */
  async answer(text: string, session: Session, onCall: () => void = () => {}): Promise<string | null> {
    let message: unknown
    try {
      if (nesting(text) > DEPTH_LIMIT) throw new Error(`it nests deeper than ${DEPTH_LIMIT}`)
      message = JSON.parse(text)
    } catch (error) {
      return JSON.stringify(failed(null, PARSE_ERROR, `not JSON: ${(error as Error).message}`))
    }
    if (!Array.isArray(message)) {
      onCall()
      const answer = await this.call(message, session)
      return answer === null ? null : JSON.stringify(answer)
    }
    if (message.length === 0) return JSON.stringify(failed(null, INVALID_REQUEST, 'the batch is empty'))
    if (message.length > BATCH_LIMIT) {
      const sentence = `the batch has ${message.length} calls, at most ${BATCH_LIMIT} are taken`
      return JSON.stringify(failed(null, INVALID_REQUEST, sentence))
    }
    const answers: Answer[] = []
    for (const one of message) {
      onCall()
      const answer = await this.call(one, session)
      if (answer !== null) answers.push(answer)
    }
    return answers.length === 0 ? null : JSON.stringify(answers)
  }

  private async call(message: unknown, session: Session): Promise<Answer | null> {
    if (!isRequest(message)) return failed(idOf(message), INVALID_REQUEST, 'not a JSON-RPC 2.0 request')
    const { id, method, params } = message
    const answer = await this.run(id ?? null, method, params, session)
    return id === undefined ? null : answer
  }

  private async run(id: Id, method: string, params: unknown, session: Session): Promise<Answer> {
    if (method === 'rpc.discover') return { jsonrpc: '2.0', id, result: this.document }
    if (!Object.hasOwn(api, method)) return failed(id, METHOD_NOT_FOUND, `there is no method ${quote(method)}`)
    const name = method as MethodName
    try {
      const given = check(api[name].params as TSchema, byName(api[name].params, params)) as never
      this.permit(name, given, session)
      const result: unknown = await Promise.resolve(this.handlers[name](given, session))
      return { jsonrpc: '2.0', id, result }
    } catch (error) {
      if (error instanceof Failure) {
        const code = error.code === 'ERR_INVALID' ? INVALID_PARAMS : REFUSED
        return failed(id, code, error.message, error)
      }
      this.log.error(`${method}: ${(error as Error).stack ?? String(error)}`)
      return failed(id, INTERNAL_ERROR, `internal error in ${method}; the log of the daemon has it in full`)
    }
  }
}

/** Deepest nesting of arrays and objects, without parsing. */
export function nesting(text: string): number {
  let depth = 0
  let deepest = 0
  let quoted = false
  for (let at = 0; at < text.length; at++) {
    const c = text.charCodeAt(at)
    if (quoted) {
      if (c === 0x5c)
        at++ // backslash: the next character does not end the string
      else if (c === 0x22) quoted = false
    } else if (c === 0x22) {
      quoted = true
    } else if (c === 0x5b || c === 0x7b) {
      if (++depth > deepest) deepest = depth
    } else if (c === 0x5d || c === 0x7d) {
      depth--
    }
  }
  return deepest
}

/** Parameters by position become parameters by name, in the order of the schema. */
function byName(schema: TSchema, params: unknown): unknown {
  if (params === undefined) return {}
  if (!Array.isArray(params)) return params
  const names = Object.keys((schema as unknown as { properties: object }).properties)
  if (params.length > names.length) {
    throw new Failure('ERR_INVALID', `${params.length} parameters given, the method takes ${names.length}`)
  }
  return Object.fromEntries(params.map((value, index) => [names[index], value]))
}

interface Request {
  id?: Id
  method: string
  params?: unknown
}

function isRequest(message: unknown): message is Request {
  if (typeof message !== 'object' || message === null || Array.isArray(message)) return false
  const { jsonrpc, method, id, params } = message as Record<string, unknown>
  if (jsonrpc !== '2.0' || typeof method !== 'string') return false
  if (id !== undefined && id !== null && typeof id !== 'string' && typeof id !== 'number') return false
  return params === undefined || (typeof params === 'object' && params !== null)
}

function idOf(message: unknown): Id {
  const id = typeof message === 'object' && message !== null ? (message as { id?: unknown }).id : null
  return typeof id === 'string' || typeof id === 'number' ? id : null
}

function failed(id: Id, code: number, message: string, failure?: Failure): Answer {
  if (failure === undefined) return { jsonrpc: '2.0', id, error: { code, message } }
  const data = failure.path === undefined ? { code: failure.code } : { code: failure.code, path: failure.path }
  return { jsonrpc: '2.0', id, error: { code, message, data } }
}
