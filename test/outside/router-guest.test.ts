/**
 * Real QEMU guests behind a router: they boot without any configuration and find address, names, each other and the
 * outside by themselves; the outside finds them by a forward alone.
 *
 *   g1, g2 (QEMU), box (namespace, udhcpc) ── lan ── router ── netdev:up0 ═══ out0 [outside: HTTP, 198.51.100.1]
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { type Background, needs, until, words } from '../rig/commands.js'
import { type Session, udhcpc } from '../rig/dhcp-clients.js'
import { Guest } from '../rig/guest.js'
import type { Host } from '../rig/hosts.js'
import type { Namespace } from '../rig/namespaces.js'
import { Routed, routerNeeds, serveHttp } from '../rig/router.js'

const wants = needs(
  ...routerNeeds,
  ...words('busybox curl python3 iperf3 qemu-system-x86_64 apt-get dpkg-deb cpio xz zstd nmap'),
)
const payload = Buffer.alloc(3_000_000, 'a download that is checked as a whole; ')
const digest = createHash('sha256').update(payload).digest('hex')

/** What `weft qemu` prints for a port, as arguments. */
async function printed(routed: Routed, port: string): Promise<string[]> {
  const text = await routed.weft.do(['qemu', 'lan', port])
  return text
    .replaceAll('\\\n', ' ')
    .split(/\s+/)
    .filter(Boolean)
    .map((word) => word.replace(/^'(.*)'$/, '$1'))
}

describe('guests that know nothing', wants, () => {
  let routed: Routed
  let outside: Namespace
  let server: Background
  let box: Host
  let session: Session
  let boxIp = ''
  const guests = new Map<string, Guest>()
  const addresses = new Map<string, string>()
  const guest = (name: string): Guest => guests.get(name)!

  const boot = async (name: string): Promise<void> => {
    guests.set(name, await Guest.boot(routed.lab, { name, arguments: await printed(routed, name) }))
  }
  /** The guest's own udhcpc, as its image has it: nothing is told but the name. */
  const lease = async (name: string): Promise<string> => {
    const script = '-s /usr/share/udhcpc/default.script'
    await guest(name).run(`ip link set eth0 up; udhcpc -i eth0 -n -q -t 10 -T 2 ${script} -x hostname:${name}`, 90)
    const text = await guest(name).run('ip -4 addr show eth0')
    return /inet ([\d.]+)\//.exec(text)?.[1] ?? text
  }

  before(async () => {
    const { routed: network, outside: space } = await Routed.behind(
      {
        subnets: [{ cidr: '10.68.0.0/24', dhcp: '10.68.0.100-10.68.0.199' }],
        uplink: 'netdev:up0,address=198.51.100.2/24,gateway=198.51.100.1',
        domain: 'home.internal',
      },
      ['198.51.100.1/24'],
      { resolvers: '# none\n' },
    )
    routed = network
    outside = space
    server = await serveHttp(routed.lab, outside, 8080, { file: payload })
    box = await routed.guest('box')
    session = await udhcpc.start(routed.lab, box, { hostname: 'box' })
    boxIp = (await session.acquired()).address
    for (const name of ['g1', 'g2']) {
      await routed.add(name, `--kind qemu --path ${join(routed.lab.folder, `${name}.sock`)}`)
      await boot(name)
    }
  })
  after(async () => {
    for (const one of guests.values()) await one.kill()
    await session?.kill()
    await server?.stop('SIGKILL')
    await routed?.close()
  })

  it('each leases an address, with router and resolver', async () => {
    for (const name of ['g1', 'g2']) {
      const address = await lease(name)
      addresses.set(name, address)
      assert.match(address, /^10\.68\.0\.1\d\d$/)
      assert.match(await guest(name).run('ip route'), /default via 10\.68\.0\.1 dev eth0/)
      assert.equal((await guest(name).run('cat /etc/resolv.conf')).trim(), 'nameserver 10.68.0.1')
      const entry = await routed.lease(address)
      assert.deepEqual(
        [entry?.mac, entry?.hostname, entry?.port, entry?.reserved],
        [await guest(name).mac(), name, name, false],
      )
    }
    assert.notEqual(addresses.get('g1'), addresses.get('g2'))
  })

  it('they resolve each other and ping each other by name', async () => {
    assert.match(await guest('g1').run('nslookup g2.home.internal 10.68.0.1'), new RegExp(addresses.get('g2')!))
    await guest('g1').run('ping -c 3 -W 5 g2.home.internal')
    await guest('g2').run('ping -c 3 -W 5 g1.home.internal')
    await guest('g1').run('ping -c 3 -W 5 box.home.internal')
    await guest('g1').run('ping -c 3 -W 5 gateway.home.internal')
    assert.equal(await box.space.ping(addresses.get('g1')!, { waitSeconds: 5 }), 3)
    assert.notEqual((await guest('g1').exec('nslookup nobody.home.internal 10.68.0.1')).rc, 0)
  })

  it('a download through NAT is whole, and the server sees the router', async () => {
    for (const name of ['g1', 'g2']) {
      const text = await guest(name).run('wget -q -O - http://198.51.100.1:8080/file | sha256sum', 120)
      assert.equal(text.split(' ')[0].trim(), digest)
    }
    const seen = [...server.stderr.matchAll(/^(\S+) - - \[/gm)].map(([, address]) => address)
    assert.deepEqual(seen, ['::ffff:198.51.100.2', '::ffff:198.51.100.2'])
  })

  it('ping and traceroute go out', async () => {
    await guest('g1').run('ping -c 3 -W 5 198.51.100.1')
    const text = await guest('g1').run('traceroute -n -q 1 -w 5 -m 4 198.51.100.1')
    assert.match(text, /1 +10\.68\.0\.1 [\s\S]*2 +198\.51\.100\.1 /)
  })

  it('nothing outside reaches a guest, until a forward says so', async () => {
    await guest('g1').run('mkdir -p /www && echo hello from g1 >/www/page && httpd -p 80 -h /www')
    const curl = ['-sS', '--max-time', '20', 'http://198.51.100.2:8000/page']
    assert.notEqual((await outside.attempt('curl', [...curl.slice(0, 2), '3', curl[3]])).status, 0)
    await outside.ip(`route add 10.68.0.0/24 via 198.51.100.2`)
    assert.equal(await outside.ping(addresses.get('g1')!, { count: 2, waitSeconds: 1 }), 0)
    await routed.weft.do('forward add lan tcp:8000 g1:80')
    assert.equal((await outside.run('curl', curl)).trim(), 'hello from g1')
    const direct = ['-sS', '--max-time', '3', `http://${addresses.get('g1')}/page`]
    assert.notEqual((await outside.attempt('curl', direct)).status, 0)
    assert.equal(
      (await box.space.run('curl', curl)).trim(),
      'hello from g1',
      'from inside, by the outside address (hairpin)',
    )
  })

  it('nmap sees the forward alone', async () => {
    const scan = ['-Pn', '-n', '-p', '22,53,67,80,443,8000,8080', '--max-retries', '1', '198.51.100.2']
    const text = await outside.run('nmap', scan, { timeoutSeconds: 120 })
    const open = [...text.matchAll(/^(\d+)\/tcp +open/gm)].map(([, port]) => port)
    assert.deepEqual(open, ['8000'])
  })

  it('a guest that is killed and boots again has the same address, and the forward leads to it', async () => {
    await guest('g1').kill()
    await boot('g1')
    assert.equal(await lease('g1'), addresses.get('g1'))
    await guest('g1').run('mkdir -p /www && echo again from g1 >/www/page && httpd -p 80 -h /www')
    const text = await until(
      'the forward leads to the guest',
      async () => (await outside.run('curl', ['-sS', '--max-time', '10', 'http://198.51.100.2:8000/page'])).trim(),
      40,
    )
    assert.equal(text, 'again from g1')
    await guest('g2').run('ping -c 3 -W 5 g1.home.internal')
  })

  it('a forward that is removed leads nowhere', async () => {
    await routed.weft.do('forward remove lan tcp:8000')
    const curl = ['-sS', '--max-time', '3', 'http://198.51.100.2:8000/page']
    assert.notEqual((await outside.attempt('curl', curl)).status, 0)
  })

  it('by an uplink to the host a guest reaches the host, and still the others', async () => {
    await routed.weft.do('network set lan --uplink host')
    const { uplinkStatus } = await routed.show()
    const [gateway] = uplinkStatus?.gateways ?? []
    const host = await serveHttp(routed.lab, routed.switchSpace(), 8081, { file: payload })
    try {
      const text = await guest('g1').run(`wget -q -O - http://${gateway}:8081/file | sha256sum`, 120)
      assert.equal(text.split(' ')[0].trim(), digest)
      await guest('g1').run(`ping -c 3 -W 5 ${boxIp}`)
    } finally {
      await host.stop('SIGKILL')
    }
  })
})
