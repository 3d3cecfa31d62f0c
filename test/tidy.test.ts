/**
 * What of STYLE.md a machine can hold: reads the sources themselves, as text.
 *
 * The frame path. In `src/dataplane` certain constructs cost allocations, garbage or a slow site, and are banned
 * outside the methods listed in `ELSEWHERE`, which run when something is configured or compiled and never for a frame.
 * Methods are found by their indentation, which the formatter keeps: a member of a class stands at two spaces, what
 * stands at none is the module's own and runs once.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../', import.meta.url))

function filesOf(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|c|h)$/.test(name))
    .map((name) => join(folder, name))
    .sort()
}

const files = ['src', 'native', 'bench', 'test'].flatMap(filesOf)
const sources = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]))
const scripts = files.filter((file) => file.endsWith('.ts'))
const dataplane = scripts.filter((file) => file.startsWith('src/dataplane/'))

/** All lines, as [file, number, text]. */
function* lines(of: readonly string[]): Generator<[file: string, number: number, text: string]> {
  for (const file of of) for (const [i, text] of sources.get(file)!.split('\n').entries()) yield [file, i + 1, text]
}

const found = (of: readonly string[], wrong: (text: string, file: string) => boolean): string[] =>
  [...lines(of)].filter(([file, , text]) => wrong(text, file)).map(([file, number]) => `${file}:${number}`)

test('the folders are there', () => {
  for (const folder of ['src/dataplane', 'src/ports', 'src/control', 'native', 'bench', 'test'])
    assert.ok(
      files.some((file) => file.startsWith(`${folder}/`)),
      folder,
    )
})

test('every file opens with a block that says what it is', () => {
  const without = files.filter((file) => !/^(#!.*\n)?\/\*[\s*]+[^\s*][\s\S]{20,}?\*\//.test(sources.get(file)!))
  assert.deepEqual(without, [])
})

test('no line is longer than 120 columns', () => {
  assert.deepEqual(
    found(files, (text) => text.length > 120),
    [],
  )
})

test('nothing is left to do later', () => {
  const marks = new RegExp(
    `\\b(${['TO', 'FIX'].map((first) => `${first}${first === 'TO' ? 'DO' : 'ME'}`).join('|')})\\b`,
  )
  assert.deepEqual(
    found(files, (text) => marks.test(text)),
    [],
  )
})

test('no merge is left half done', () => {
  const documents = ['README.md', 'ARCHITECTURE.md', 'package.json', 'native/Makefile']
  const texts = [...sources, ...documents.map((file) => [file, readFileSync(join(root, file), 'utf8')] as const)]
  const marked = texts.filter(([, text]) => /^(<{7}|={7}|>{7}|\|{7})( |$)/m.test(text)).map(([file]) => file)
  assert.deepEqual(marked, [])
})

// ---- imports ----

/** The files of this project that a script imports, types included. */
function importsOf(file: string): string[] {
  const specifiers = [...sources.get(file)!.matchAll(/(?:from|import|new URL\()\s*\(?'(\.[^']*\.js)'/g)]
  return specifiers.map(([, specifier]) => normalize(join(dirname(file), specifier)).replace(/\.js$/, '.ts'))
}

function packagesOf(file: string): string[] {
  return [...sources.get(file)!.matchAll(/(?:from|import)\s*\(?'([^.'][^']*)'/g)].map(([, specifier]) => specifier)
}

test('imports lead to files', () => {
  for (const file of scripts)
    for (const other of importsOf(file)) assert.ok(existsSync(join(root, other)), `${file}: ${other}`)
})

test('every script is reached from an entry point or a test', () => {
  const { bin, main, scripts: commands } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const named = [...Object.values<string>(bin), main, ...Object.values<string>(commands)].flatMap((text) =>
    [...text.matchAll(/dist\/([\w/.-]+)\.js/g)].map(([, path]) => `${path}.ts`),
  )
  const isDocumented = (file: string): boolean =>
    new RegExp(`node (--\\S+ )*dist/${file.replace(/ts$/, 'js')}`).test(sources.get(file)!)
  const waiting = [...named, ...scripts.filter((file) => file.endsWith('.test.ts') || isDocumented(file))]
  const reached = new Set(waiting)
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop())
    for (const other of sources.has(file) ? importsOf(file) : [])
      if (!reached.has(other)) {
        reached.add(other)
        waiting.push(other)
      }
  assert.deepEqual(
    scripts.filter((file) => !reached.has(file)),
    [],
  )
})

test('every C header is included somewhere', () => {
  const text = files
    .filter((file) => /\.[ch]$/.test(file))
    .map((file) => sources.get(file))
    .join('\n')
  for (const file of files.filter((name) => name.endsWith('.h')))
    assert.ok(text.includes(`${relative(dirname(file), file)}"`), file)
})

/** What each folder of src may import of the others: one way only. */
const MAY: Record<string, string[]> = {
  dataplane: ['dataplane'],
  ports: ['ports', 'dataplane'],
  services: ['services', 'dataplane'],
  control: ['control', 'services', 'ports', 'dataplane'],
}

test('imports between the folders of src run one way', () => {
  for (const file of scripts.filter((name) => name.startsWith('src/'))) {
    const folder = file.split('/')[1]
    assert.ok(folder in MAY, `${file}: a folder without a rule`)
    for (const other of importsOf(file)) {
      assert.ok(other.startsWith('src/'), `${file} imports ${other}`)
      assert.ok(MAY[folder].includes(other.split('/')[1]), `${file} imports ${other}`)
    }
  }
})

test('the dataplane knows nothing of Node, ports know Node alone', () => {
  for (const file of dataplane) {
    assert.deepEqual(packagesOf(file), [], file)
    assert.doesNotMatch(
      sources.get(file)!.replace(/\/\*[\s\S]*?\*\//g, ''),
      /(?<![-\w])(process|globalThis|Buffer)\.|\b(require|setTimeout|setImmediate)\(/,
      file,
    )
  }
  for (const file of scripts.filter((name) => name.startsWith('src/ports/')))
    assert.deepEqual(
      packagesOf(file).filter((name) => !name.startsWith('node:')),
      [],
      file,
    )
})

// ---- the frame path ----

const BANNED: [what: string, pattern: RegExp][] = [
  ['BigInt', /\bBigInt\b|\b\d+n\b/],
  ['a collection', /\bnew (Map|Set|WeakMap)\b/],
  ['a new object or array', /\bnew \w|(=|return|\() *(\[[^\]]|\{ *\w+ *[:,])/],
  ['a view or a copy', /\.(subarray|slice|splice|concat|from|of)\(/],
  ['a callback', /\.(forEach|map|filter|reduce|some|every|sort|flatMap)\(|=>/],
  ['an iterator', /\bfor (await )?\((const|let|var) [^;]* (of|in) /],
  ['a spread or rest', /\.\.\./],
  ['waiting', /\b(async|await|yield|Promise)\b/],
  ['an exception', /\b(try|throw|catch)\b/],
  ['a log or a clock', /\bconsole\.|\bDate\b|\bperformance\b/],
  ['a growing buffer', /maxByteLength/],
  ['JSON', /\bJSON\./],
  ['a string made at run time', /`/],
  ['any', /\bas (any|unknown)\b|: any\b/],
  ['deletion', /\bdelete\b/],
]

/** What runs for no frame: constructors, and by file the methods of configuring, compiling and listing. */
const ELSEWHERE: Record<string, string[]> = {
  'fdb.ts': ['takeOver'],
  'filter-compile.ts': ['Parser'], // the whole class
  'mirror.ts': ['start', 'stop'],
  'pipeline.ts': ['configureNetwork'],
  'port-table.ts': ['configure', 'forget', 'write'],
  'router/connections.ts': ['takeOver'],
  'router/firewall.ts': ['adopt'],
  'router/mappings.ts': ['configure', 'adopt'],
  'router/port-range.ts': ['configure'],
  'router/router-table.ts': ['configure'],
  'router/state.ts': ['configure'],
}
/** Local names for fields (`const { a, b } = this`) allocate nothing. */
const TAKING_APART = /^\s*(const|let) \{[^}]*\} = [\w.]+$/

interface Place {
  file: string
  number: number
  text: string
  method: string
}

/** The lines inside methods of classes, without comments. */
function* frameLines(): Generator<Place> {
  for (const file of dataplane) {
    let owner = ''
    let method = ''
    let comment = false
    for (const [, number, raw] of lines([file])) {
      if (/^\s*\/\*\*/.test(raw)) comment = true
      const quiet = comment
      if (/\*\/\s*$/.test(raw)) comment = false
      if (quiet) continue
      const text = raw.replace(/\s\/\/ .*$|^\/\/ .*$/, '').replace(/'[^']*'/g, "''")
      const opened = /^(?:export )?(?:class|function) (\w+)/.exec(text)
      if (opened) owner = opened[1]
      if (text.startsWith('}')) owner = ''
      const member = /^ {2}(?:private |readonly |static |get |set )*(\w+)\(.*$/.exec(text)
      if (member && owner !== '') method = member[1]
      else if (/^ {4,}/.test(text) && owner !== '' && method !== '')
        yield { file, number, text, method: `${owner}.${method}` }
      else if (/^ {2}\}/.test(text)) method = ''
    }
  }
}

function isElsewhere({ file, method }: Place): boolean {
  const [owner, name] = method.split('.')
  const listed = ELSEWHERE[file.slice('src/dataplane/'.length)] ?? []
  return name === 'constructor' || listed.includes(name) || listed.includes(owner)
}

test('the frame path has none of what allocates, throws, waits or asks', () => {
  const seen = new Set<string>()
  const wrong: string[] = []
  for (const place of frameLines()) {
    seen.add(`${place.file.slice('src/dataplane/'.length)} ${place.method}`)
    if (isElsewhere(place) || TAKING_APART.test(place.text)) continue
    for (const [what, pattern] of BANNED)
      if (pattern.test(place.text)) wrong.push(`${place.file}:${place.number}: ${what}: ${place.text.trim()}`)
  }
  assert.deepEqual(wrong, [])
  const known = ['ingress.ts Ingress.admit', 'forward.ts Forward.flood', 'fdb.ts Fdb.erase', 'burst.ts Pool.release']
  for (const one of known) assert.ok(seen.has(one), `${one}: the reader of methods does not see it`)
  for (const [file, names] of Object.entries(ELSEWHERE))
    for (const name of names) {
      const isThere = [...seen].some((one) => one.startsWith(`${file} `) && one.split(/[ .]/).includes(name))
      assert.ok(isThere, `${file}: ${name} is gone`)
    }
})

test('the files of the frame path take constants as their own', () => {
  // an imported constant is a load and two checks at every use, a module's own is a literal: see layout.ts
  const own = ['burst', 'egress', 'fdb', 'forward', 'ingress', 'learn', 'loop', 'mirror', 'pipeline', 'port-table']
  for (const name of own) {
    const text = sources.get(`src/dataplane/${name}.ts`)!
    const lists = [...text.matchAll(/^import \{([^}]*)\}/gm)].map(([, names]) => names).join()
    const imported = lists.match(/\b[A-Z][A-Z0-9_]+\b/g) ?? []
    assert.deepEqual(imported, [], name)
  }
})

test('the bans catch what they are for', () => {
  const samples = [
    'x = 5n',
    'new Map()',
    'return { a: 1 }',
    'a = [1, 2]',
    'b.subarray(1)',
    'c.forEach(f)',
    'for (const a of b)',
    'f(...a)',
    'await x',
    'throw e',
    'console.log(1)',
    'Date.now()',
    'maxByteLength: 1',
    'JSON.parse(a)',
    '`a`',
    'a as any',
    'delete a.b',
  ]
  for (const sample of samples)
    assert.ok(
      BANNED.some(([, pattern]) => pattern.test(sample)),
      sample,
    )
  for (const plainLine of [
    'a[i] = b[i + 1]',
    'for (let i = 0; i < n; i++) {',
    'if (x === 0) return -1',
    'const { a } = this',
  ])
    assert.ok(TAKING_APART.test(plainLine) || !BANNED.some(([, pattern]) => pattern.test(plainLine)), plainLine)
})
