/**
 * Addresses and routes of an interface (native/address.c), judged by iproute2: a TAP in a namespace of its own, as a
 * `host` uplink has it.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { namespacePath } from '../../src/ports/device.js'
import { type OpenedTap, check, native } from '../../src/ports/native.js'
import { ipBytes, parseIp } from '../../src/services/address.js'
import { needs } from '../rig/commands.js'
import { Lab, type Namespace } from '../rig/namespaces.js'

const EEXIST = 17
const ENODEV = 19
const EINVAL = 22
const ENOENT = 2
const ENETUNREACH = 101
const EADDRNOTAVAIL = 99
const ESRCH = 3

const bytes = (text: string): Uint8Array => ipBytes(parseIp(text)!)

describe('addresses and routes', needs('root', 'tun', 'ip'), () => {
  let lab: Lab
  let space: Namespace
  let netns: string
  let tap: OpenedTap
  const address = (text: string, prefix: number): number => native.addAddress('up0', netns, bytes(text), prefix)
  const route = (text: string, prefix: number, via: string | null): number =>
    native.addRoute('up0', netns, bytes(text), prefix, via === null ? null : bytes(via))
  const show = async (what: string): Promise<string[]> =>
    (await space.run('ip', what.split(' '))).split('\n').map((line) => line.trim().replace(/ +/g, ' '))

  before(async () => {
    lab = await Lab.open()
    space = await lab.namespace('host', { ipv6: true })
    netns = namespacePath(space.name)
    tap = check(native.openTap('up0', netns, 1500, -1, true, false, ''), 'tap up0')
  })
  after(async () => {
    native.close(tap.fd)
    await lab.close()
  })

  it('are there for the kernel, IPv6 at once, and go one by one', async () => {
    assert.equal(address('172.31.0.1', 30), 0)
    assert.equal(address('fd00:9::1', 64), 0)
    assert.equal(address('172.31.0.1', 30), -EEXIST, 'what is there is not taken over')
    const shown = await show('addr show dev up0')
    assert.ok(
      shown.some((line) => line.startsWith('inet 172.31.0.1/30 scope global up0')),
      shown.join('\n'),
    )
    const six = shown.find((line) => line.startsWith('inet6 fd00:9::1/64')) ?? ''
    assert.ok(six.includes('nodad') && !six.includes('tentative'), six)

    assert.equal(route('10.7.0.0', 24, '172.31.0.2'), 0)
    assert.equal(route('10.8.0.0', 16, null), 0)
    assert.equal(route('fd00:7::', 64, 'fd00:9::2'), 0)
    assert.equal(route('fd00:8::', 64, null), 0)
    assert.equal(route('10.7.0.0', 24, '172.31.0.2'), -EEXIST)
    const four = await show('-4 route show')
    assert.ok(four.includes('10.7.0.0/24 via 172.31.0.2 dev up0 proto static'), four.join('\n'))
    assert.ok(four.includes('10.8.0.0/16 dev up0 proto static scope link'), four.join('\n'))
    const routes = (await show('-6 route show')).join('\n')
    assert.match(routes, /^fd00:7::\/64 via fd00:9::2 dev up0 proto static/m)
    assert.match(routes, /^fd00:8::\/64 dev up0 proto static/m)

    assert.equal(native.removeRoute('up0', netns, bytes('10.7.0.0'), 24, bytes('172.31.0.2')), 0)
    assert.equal(native.removeRoute('up0', netns, bytes('10.7.0.0'), 24, bytes('172.31.0.2')), -ESRCH)
    assert.equal(native.removeRoute('up0', netns, bytes('fd00:8::'), 64, null), 0)
    assert.equal(native.removeAddress('up0', netns, bytes('fd00:9::1'), 64), 0)
    assert.equal(native.removeAddress('up0', netns, bytes('fd00:9::1'), 64), -EADDRNOTAVAIL)
    assert.doesNotMatch((await show('-4 route show')).join('\n'), /10\.7\.0\.0/)
    assert.doesNotMatch((await show('-6 addr show dev up0')).join('\n'), /fd00:9::1/)
  })

  it('are refused by errno, and nothing is left behind', async () => {
    const routes = await show('-4 route show')
    assert.equal(route('10.9.0.0', 24, 'fd00:9::2'), -EINVAL, 'two families')
    assert.equal(route('10.9.0.1', 24, null), -EINVAL, 'bits behind the prefix')
    assert.equal(route('10.9.0.0', 24, '203.0.113.1'), -ENETUNREACH)
    assert.equal(address('10.9.0.1', 33), -EINVAL)
    assert.equal(address('10.9.0.1', -1), -EINVAL)
    assert.equal(address('fd00::1', 129), -EINVAL)
    assert.equal(native.addAddress('up0', netns, Uint8Array.of(10, 9, 0), 24), -EINVAL)
    assert.equal(native.addAddress('absent0', netns, bytes('10.9.0.1'), 24), -ENODEV)
    assert.equal(native.addAddress('x'.repeat(40), netns, bytes('10.9.0.1'), 24), -ENODEV)
    assert.equal(native.addAddress('up0', '/run/netns/weftt-absent', bytes('10.9.0.1'), 24), -ENOENT)
    assert.deepEqual(await show('-4 route show'), routes)
  })

  it('go with the interface', async () => {
    const other = check(native.openTap('up1', netns, 1500, -1, true, false, ''), 'tap up1')
    assert.equal(native.addAddress('up1', netns, bytes('172.31.1.1'), 30), 0)
    assert.equal(native.addRoute('up1', netns, bytes('10.10.0.0'), 16, bytes('172.31.1.2')), 0)
    native.close(other.fd)
    assert.doesNotMatch((await show('-4 route show')).join('\n'), /up1/)
  })
})
