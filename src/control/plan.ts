/**
 * What must be done to a running network so that it becomes another: a pure difference, and its execution.
 *
 * `plan(current, wanted)` yields named actions in an order that never has two ports on one device: entries and ports go
 * first, then the network's own settings (its router and uplink among them), then changed ports, then new ports, then
 * new entries. A port that stays as it is appears in no action, so a change of one port cannot touch another. `execute`
 * applies actions one after another; if one is refused it takes back those before it, in reverse order, and passes the
 * refusal on: a change happens whole or not at all.
 */
import { isDeepStrictEqual } from 'node:util'
import type { Fabric, NetworkDefinition, PortDefinition, StaticEntry } from './model.js'

export type Action =
  | { do: 'network.start'; network: NetworkDefinition }
  | { do: 'network.stop'; network: NetworkDefinition }
  | { do: 'network.change'; from: NetworkDefinition; to: NetworkDefinition }
  | { do: 'port.add'; port: PortDefinition }
  | { do: 'port.set'; from: PortDefinition; to: PortDefinition }
  | { do: 'port.remove'; port: PortDefinition }
  | { do: 'fdb.add'; entry: StaticEntry }
  | { do: 'fdb.remove'; entry: StaticEntry }

/** null stands for a network that does not run. Both have the same name. */
export function plan(current: NetworkDefinition | null, wanted: NetworkDefinition | null): Action[] {
  if (current === null) return wanted === null ? [] : [{ do: 'network.start', network: wanted }]
  if (wanted === null) return [{ do: 'network.stop', network: current }]

  const before = new Map(current.ports.map((port) => [port.name, port]))
  const after = new Map(wanted.ports.map((port) => [port.name, port]))
  // The kind of a port is what it is: another kind under the same name is another port.
  const replaced = (port: PortDefinition) => {
    const other = before.get(port.name)
    return other !== undefined && other.kind !== port.kind
  }
  const gone = current.ports.filter((port) => {
    const kept = after.get(port.name)
    return kept === undefined || kept.kind !== port.kind
  })
  const stale = (entry: StaticEntry) => gone.some((port) => port.name === entry.port)
  const has = (entries: readonly StaticEntry[], entry: StaticEntry) =>
    entries.some((one) => isDeepStrictEqual(one, entry))

  const actions: Action[] = []
  for (const entry of current.fdb) {
    if (!has(wanted.fdb, entry) || stale(entry)) actions.push({ do: 'fdb.remove', entry })
  }
  for (const port of gone) actions.push({ do: 'port.remove', port })
  if (!isDeepStrictEqual(ownSettings(current), ownSettings(wanted))) {
    actions.push({ do: 'network.change', from: current, to: wanted })
  }
  for (const port of wanted.ports) {
    const from = before.get(port.name)
    if (from !== undefined && !replaced(port) && !isDeepStrictEqual(from, port)) {
      actions.push({ do: 'port.set', from, to: port })
    }
  }
  for (const port of wanted.ports) {
    if (!before.has(port.name) || replaced(port)) actions.push({ do: 'port.add', port })
  }
  for (const entry of wanted.fdb) {
    if (!has(current.fdb, entry) || stale(entry)) actions.push({ do: 'fdb.add', entry })
  }
  return actions
}

/** What `Fabric.change` is about: all of a network that is no port, no entry, and runs. */
function ownSettings(network: NetworkDefinition): object {
  const { ports: _ports, fdb: _fdb, autostart: _autostart, ...settings } = network
  return settings
}

/** What takes an action back. */
export function inverse(action: Action): Action {
  switch (action.do) {
    case 'network.start':
      return { do: 'network.stop', network: action.network }
    case 'network.stop':
      return { do: 'network.start', network: action.network }
    case 'network.change':
      return { do: 'network.change', from: action.to, to: action.from }
    case 'port.add':
      return { do: 'port.remove', port: action.port }
    case 'port.set':
      return { do: 'port.set', from: action.to, to: action.from }
    case 'port.remove':
      return { do: 'port.add', port: action.port }
    case 'fdb.add':
      return { do: 'fdb.remove', entry: action.entry }
    case 'fdb.remove':
      return { do: 'fdb.add', entry: action.entry }
  }
}

/**
 * Applies the actions to network `name`, then runs `commit`. Rejects with the first refusal after taking back what was
 * done; `onStuck` hears of an action that could not be taken back.
 */
export async function execute(
  fabric: Fabric,
  name: string,
  actions: readonly Action[],
  commit: () => void,
  onStuck: (action: Action, error: unknown) => void,
): Promise<void> {
  const done: Action[] = []
  try {
    for (const action of actions) {
      await apply(fabric, name, action)
      done.push(action)
    }
    commit()
  } catch (refusal) {
    for (const action of done.toReversed()) {
      const back = inverse(action)
      try {
        await apply(fabric, name, back, true)
      } catch (error) {
        onStuck(back, error)
      }
    }
    throw refusal
  }
}

/** `isPatient`: a port comes back also where its device is away, as it may have been before. */
async function apply(fabric: Fabric, name: string, action: Action, isPatient = false): Promise<void> {
  switch (action.do) {
    case 'network.start':
      return fabric.start(action.network)
    case 'network.stop':
      return fabric.stop(name)
    case 'network.change':
      return fabric.change(action.to)
    case 'port.add':
      return fabric.addPort(name, action.port, isPatient)
    case 'port.set':
      return fabric.setPort(name, action.to)
    case 'port.remove':
      return fabric.removePort(name, action.port.name)
    case 'fdb.add':
      return fabric.addStatic(name, action.entry)
    case 'fdb.remove':
      return fabric.removeEntry(name, action.entry.mac, action.entry.vid)
  }
}
