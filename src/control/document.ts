/**
 * Texts that define networks: Weft's YAML or JSON, read into a plain value and written from one.
 *
 * JSON is YAML's subset here: one reader takes both. Duplicate keys, aliases that multiply and custom tags are refused
 * by the reader. A document is at most 1 MiB. libvirt's network XML is recognised and refused until its importer
 * exists.
 */
import { parseDocument, stringify } from 'yaml'
import { Failure } from './failure.js'
import { invalid } from './schema.js'

const DOCUMENT_BYTES = 1 << 20

/** Throws ERR_INVALID with line and column, or ERR_UNSUPPORTED for XML. */
export function readDocument(text: string): unknown {
  const bytes = Buffer.byteLength(text)
  if (bytes > DOCUMENT_BYTES)
    throw invalid('', `the document is ${bytes} bytes long, at most ${DOCUMENT_BYTES} are read`)
  if (/^\s*</.test(text)) throw unsupportedXml()
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: true, customTags: [] })
  const fault = document.errors[0] ?? document.warnings[0]
  if (fault !== undefined) {
    throw invalid('', `the document is not YAML or JSON: ${fault.message.split('\n')[0]?.replace(/:$/, '')}`)
  }
  try {
    const value: unknown = document.toJS({ maxAliasCount: 100 })
    JSON.stringify(value) // throws where an alias stands within what it names
    return value
  } catch (error) {
    throw invalid('', `the document is not YAML or JSON: ${(error as Error).message.split('\n')[0]}`)
  }
}

export function writeDocument(value: unknown, format: 'yaml' | 'json'): string {
  return format === 'yaml' ? stringify(value, { lineWidth: 100 }) : `${JSON.stringify(value, null, 2)}\n`
}

export function unsupportedXml(): Failure {
  return new Failure('ERR_UNSUPPORTED', 'libvirt network XML comes in a later version of Weft, it takes YAML and JSON')
}
