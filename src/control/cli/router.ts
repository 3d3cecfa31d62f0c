/**
 * `weft route …`, `weft forward …`, `weft rule …`, `weft record …`: what a user gives the router of a network.
 */
import type { Command } from 'commander'
import type { Forward, Methods, NameRecord, RouteEntry, RuleEntry } from '../client.js'
import { UsageError, defined, integer, talking } from './command.js'
import { short, table } from './table.js'

export function addRouterCommands(weft: Command): void {
  addRouteCommands(weft)
  addForwardCommands(weft)
  addRuleCommands(weft)
  addRecordCommands(weft)
}

function addRouteCommands(weft: Command): void {
  const route = weft.command('route').description('routes of a router')

  talking(route, 'list <network>', 'the routes of a network', async (session, [network = '']) => {
    const routes = await session.call('route.list', { network })
    session.print(routes, routeTable(routes))
  })

  const lead = 'add a route: CIDR via ADDRESS or via another NETWORK'
  talking(route, 'add <network> <cidr> <via...>', lead, async (session, [network = '', destination = '', ...words]) => {
    if (words[0] === 'via') words.shift()
    const [via = '', ...rest] = words
    if (via === '' || rest.length > 0) throw new UsageError('a route is CIDR via ADDRESS|NETWORK')
    const result = await session.call('route.add', { network, destination, via })
    session.print(result, `${result.destination} goes via ${result.via}`)
  })

  talking(route, 'remove <network> <cidr>', 'remove a route', async (session, [network = '', destination = '']) => {
    const result = await session.call('route.remove', { network, destination })
    session.print(result, `the route to ${destination} is removed`)
  })
}

function addForwardCommands(weft: Command): void {
  const forward = weft.command('forward').description('ports of the uplink that lead to guests')

  talking(forward, 'list <network>', 'the forwards of a network', async (session, [network = '']) => {
    const forwards = await session.call('forward.list', { network })
    session.print(forwards, forwardTable(forwards))
  })

  const what = 'tcp|udp:[ADDRESS:]PORT[-PORT] to GUEST[:PORT], an address or the name of a lease'
  talking(forward, 'add <network> <forward> <guest>', what, async (session, [network = '', source = '', to = '']) => {
    const result = await session.call('forward.add', { network, forward: source, to })
    session.print(result, `${outside(result)} goes to ${inside(result)}`)
  })

  const gone = 'remove a forward'
  talking(forward, 'remove <network> <forward>', gone, async (session, [network = '', source = '']) => {
    const result = await session.call('forward.remove', { network, forward: source })
    session.print(result, `${outside(result)} goes to ${inside(result)} no longer`)
  })
}

function addRuleCommands(weft: Command): void {
  const rule = weft.command('rule').description('firewall rules of a router')

  talking(rule, 'list <network>', 'the rules in the order they are tried', async (session, [network = '']) => {
    const rules = await session.call('rule.list', { network })
    session.print(rules, ruleTable(rules))
  })

  const sentence = "add a rule: 'accept in to web1 tcp dport 80,443'"
  talking(rule, 'add <network> <rule...>', sentence, async (session, [network = '', ...words], { at }) => {
    const params = { network, rule: words.join(' '), ...defined({ at }) } as Methods['rule.add']['params']
    const result = await session.call('rule.add', params)
    session.print(result, `rule ${result.number}: ${result.rule}`)
  }).option('--at <n>', 'its number; those from there on move (default: the last)', integer)

  talking(rule, 'remove <network> <number>', 'remove a rule', async (session, [network = '', text = '']) => {
    if (!/^[1-9]\d{0,8}$/.test(text)) throw new UsageError(`${text} is not the number of a rule`)
    const result = await session.call('rule.remove', { network, number: Number(text) })
    session.print(result, `rule ${result.number} is removed: ${result.rule}`)
  })
}

function addRecordCommands(weft: Command): void {
  const record = weft.command('record').description('names that the DNS of a network answers for')

  talking(record, 'list <network>', 'the names beside those of leases', async (session, [network = '']) => {
    const records = await session.call('record.list', { network })
    session.print(records, recordTable(records))
  })

  const kinds = 'add a name: a|aaaa ADDRESS..., cname NAME, srv PRIORITY WEIGHT PORT NAME, txt TEXT...'
  talking(record, 'add <network> <name> <type> <value...>', kinds, async (session, operands) => {
    const [network = '', name = '', type = '', ...value] = operands
    const params = { network, name, type, value } as Methods['record.add']['params']
    const records = await session.call('record.add', params)
    session.print(records, recordTable(records))
  })

  const gone = 'remove a name, or its records of one type'
  talking(record, 'remove <network> <name> [type]', gone, async (session, [network, name, type]) => {
    const params = { network, name, ...defined({ type }) } as Methods['record.remove']['params']
    const result = await session.call('record.remove', params)
    session.print(result, `${name}: ${result.removed} removed`)
  })
}

const bracketed = (address: string): string => (address.includes(':') ? `[${address}]` : address)

function outside({ protocol, address, firstPort, lastPort }: Forward): string {
  const at = address === null ? '' : `${bracketed(address)}:`
  return `${protocol}:${at}${firstPort}${lastPort === firstPort ? '' : `-${lastPort}`}`
}

function inside({ to, firstPort, lastPort, toPort }: Forward): string {
  const last = toPort + lastPort - firstPort
  return `${bracketed(to)}:${toPort}${last === toPort ? '' : `-${last}`}`
}

function routeTable(routes: readonly RouteEntry[]): string {
  const rows = routes.map((one) => [one.destination, one.via ?? '-', one.interface, one.origin])
  return table(['DESTINATION', 'VIA', 'INTERFACE', 'ORIGIN'], rows)
}

function forwardTable(forwards: readonly Forward[]): string {
  return table(
    ['FORWARD', 'TO'],
    forwards.map((one) => [outside(one), inside(one)]),
  )
}

function ruleTable(rules: readonly RuleEntry[]): string {
  const rows = rules.map((one) => [String(one.number), short(one.packets), short(one.bytes), one.rule])
  return table(['NUMBER', 'PACKETS', 'BYTES', 'RULE'], rows, ['NUMBER', 'PACKETS', 'BYTES'])
}

function recordTable(records: readonly NameRecord[]): string {
  return table(
    ['NAME', 'TYPE', 'VALUE'],
    records.map((one) => [one.name, one.type.toUpperCase(), one.value.join(' ')]),
  )
}
