/**
 * A refusal that the user is told about: a code for programs, a sentence for people that names the object and the
 * value.
 *
 * The JSON-RPC error carries `data: { code, path? }`; the command line prints the message and exits with 1. Everything
 * else that is thrown is a defect of Weft and is reported as an internal error.
 */

export type FailureCode =
  | 'ERR_INVALID' // a value that is not allowed; `path` names it
  | 'ERR_UNSUPPORTED' // understood, but not in this version
  | 'ERR_NETWORK_EXISTS'
  | 'ERR_NETWORK_NOT_FOUND'
  | 'ERR_NETWORK_ACTIVE'
  | 'ERR_NETWORK_INACTIVE'
  | 'ERR_PORT_EXISTS'
  | 'ERR_PORT_NOT_FOUND'
  | 'ERR_PORT_BUSY' // the device or socket is in use
  | 'ERR_DEVICE_NOT_FOUND'
  | 'ERR_SUBNET_BUSY' // another network, or the host, has addresses of it
  | 'ERR_NOT_FOUND'
  | 'ERR_PERMISSION'
  | 'ERR_CAPACITY' // a limit is reached; the message names it
  | 'ERR_IO'

export class Failure extends Error {
  readonly code: FailureCode
  /** where in the given configuration or parameters, `ports[2].access`; undefined if it is no one value's fault */
  readonly path: string | undefined

  constructor(code: FailureCode, message: string, path?: string) {
    super(message)
    this.name = 'Failure'
    this.code = code
    this.path = path
  }
}
