/**
 * Forwards: ports of the router's outside address that lead to guests, and nothing beside them.
 *
 *   web, db ── tap ── lan (10.92.0.0/24, mode nat) ── router ── up0 ═ w0 [world] m0 ═ f0 [far]
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { needs, until } from '../rig/commands.js'
import type { Host, Wiring } from '../rig/hosts.js'
import { OutsideWorld, far, finish, judge, openPorts, router, uplink6, world } from '../rig/outside-world.js'
import { type Seen, Server, tcpConnect, tcpError, tcpSeen, udpAsk } from '../rig/talker.js'

describe(
  'forwards',
  needs('root', 'tun', 'weft', 'ip', 'tcpdump', 'tshark', 'nmap', 'ethtool', 'busybox', 'cc'),
  () => {
    let outside: OutsideWorld
    let lan: Wiring
    let web: Host
    let db: Host
    const servers: Server[] = []
    before(async () => {
      outside = await OutsideWorld.open()
      lan = await outside.network('lan', `--mode nat --subnet 10.92.0.0/24 --subnet fd92::/64 --uplink ${uplink6}`)
      web = await outside.guest(lan, 'web', '10.92.0.10', { ip6: 'fd92::10' })
      db = await outside.guest(lan, 'db', '10.92.0.11', { ip6: 'fd92::11' })
      for (const host of [web, db]) await host.reaches(world.ip)
      servers.push(
        await Server.start(web.space, 'tcp', '80-90'),
        await Server.start(web.space, 'udp', '5000-5009'),
        await Server.start(db.space, 'tcp', '80-90'),
      )
    })
    after(() => outside?.close())

    const add = (source: string, to: string) => outside.weft.do(['forward', 'add', 'lan', source, to])
    const remove = (source: string) => outside.weft.do(['forward', 'remove', 'lan', source])

    /** Adds a forward for the time of a test. */
    async function during(source: string, to: string, test: () => Promise<void>): Promise<void> {
      await add(source, to)
      try {
        await test()
      } finally {
        await remove(source)
      }
    }

    it('tcp: the guest sees the client, the client the router; removed, it is shut again', async () => {
      assert.equal(await tcpError(outside.world, router.outside, 80), 'silence')
      await during('tcp:80', web.ip, async () => {
        const seen = await tcpSeen(outside.world, router.outside, 80)
        assert.deepEqual([seen.address, seen.at], [world.ip, 80])
        assert.equal((await tcpSeen(outside.far, router.outside, 80)).address, far.ip)
        const list = await outside.connections('lan')
        const one = list.find(({ nat, original }) => nat === 'dnat' && original.source === world.ip)
        assert.deepEqual(
          [one?.original.destination, one?.original.destinationPort, one?.reply.source, one?.reply.destination],
          [router.outside, 80, web.ip, world.ip],
        )
      })
      assert.equal(await tcpError(outside.world, router.outside, 80), 'silence')
    })

    it('another port inside', async () => {
      await during('tcp:8080', `${web.ip}:81`, async () => {
        assert.equal((await tcpSeen(outside.world, router.outside, 8080)).at, 81)
      })
    })

    it('udp, and a range of ports to another range', async () => {
      await during('udp:7000-7009', `${web.ip}:5000`, async () => {
        for (const n of [0, 5, 9]) {
          const seen = (await udpAsk(outside.world, router.outside, 7000 + n)) as Seen
          assert.deepEqual([seen.address, seen.at], [world.ip, 5000 + n])
        }
      })
    })

    it('a given outside address, before one for all', async () => {
      await during('tcp:82', db.ip, async () => {
        await during(`tcp:${router.outside}:82`, `${web.ip}:83`, async () => {
          assert.equal((await tcpSeen(outside.world, router.outside, 82)).at, 83)
        })
        assert.equal((await tcpSeen(outside.world, router.outside, 82)).at, 82)
      })
    })

    it('an outside address that the router gets by the forward alone (proxy ARP)', async () => {
      await during('tcp:198.51.100.44:84', web.ip, async () => {
        assert.equal((await tcpSeen(outside.world, '198.51.100.44', 84)).at, 84)
        assert.equal(await tcpError(outside.world, '198.51.100.44', 85), 'silence')
      })
    })

    it('IPv6: to an address in brackets, the client is seen', async () => {
      await during(`tcp:[${router.outside6}]:443`, '[fd92::10]:85', async () => {
        const seen = await tcpSeen(outside.world, router.outside6, 443)
        assert.deepEqual([seen.address, seen.at], [world.ip6, 85])
      })
      await during('tcp:86', 'fd92::11', async () => {
        assert.equal((await tcpSeen(outside.world, router.outside6, 86)).at, 86)
        assert.equal(await tcpError(outside.world, router.outside, 86), 'silence')
      })
    })

    it('the name of a lease: before there is one, with it, and after it moved', async () => {
      await add('tcp:2222', 'shop:87')
      assert.equal(await tcpError(outside.world, router.outside, 2222), 'silence')
      const { host, ip } = await outside.leased(lan, 'shop')
      const server = await Server.start(host.space, 'tcp', 87)
      await until('the forward leads to the lease', async () => {
        const [outcome] = await tcpConnect(outside.world, router.outside, 2222)
        return outcome !== undefined && 'at' in outcome
      })
      // the name now is another address's
      await outside.weft.do('port remove lan shop')
      await outside.weft.cli(['lease', 'release', 'lan', ip])
      await outside.weft.do(['lease', 'reserve', 'lan', web.mac, web.ip, '--name', 'shop'])
      await until('the forward follows the name', async () => {
        const [outcome] = await tcpConnect(outside.world, router.outside, 2222)
        return outcome !== undefined && 'at' in outcome
      })
      await server.stop()
      await remove('tcp:2222')
      await outside.weft.do(['lease', 'release', 'lan', web.ip])
    })

    it('a guest reaches another by the outside address (hairpin), answers come from there', async () => {
      await during('tcp:8088', `${web.ip}:88`, async () => {
        const seen = await tcpSeen(db.space, router.outside, 8088)
        assert.deepEqual([seen.address, seen.at], [router.outside, 88])
        assert.equal((await tcpSeen(web.space, router.outside, 8088)).at, 88, 'the guest itself')
      })
      await during(`tcp:[${router.outside6}]:8088`, '[fd92::10]:88', async () => {
        assert.equal((await tcpSeen(db.space, router.outside6, 8088)).at, 88)
      })
    })

    it('much data passes intact, every checksum right', async () => {
      await during('tcp:6000-6999', web.ip, async () => {
        await finish(outside.world, 'w0', true)
        await finish(web.space, web.device, true)
        await finish(outside.space, 'up0', true)
        const [inside, wire] = [
          await web.space.capture(web.device, { only: 'in' }),
          await outside.world.capture('w0', { only: 'in' }),
        ]
        await outside.probe.stream(outside.world, web.space, router.outside, 10)
        for (const each of [inside, wire]) await each.stop()
        assert.ok((await judge(inside.path)) > 1000)
        assert.ok((await judge(wire.path)) > 100)
      })
    })

    it('a connection that was let in goes on when its forward goes', async () => {
      await add('tcp:8089', `${web.ip}:89`)
      const client = outside.world.spawn('busybox', ['nc', router.outside, '8089'])
      await until('the server speaks', () => client.stdout.includes(world.ip))
      await remove('tcp:8089')
      client.write('still there\n')
      await until('the server echoes', () => client.stdout.includes('still there'))
      await client.stop('SIGKILL')
    })

    it('nmap sees the forwarded ports and no other', async () => {
      await add('tcp:80', web.ip)
      await add('tcp:1000-1003', `${web.ip}:80`)
      await add('udp:5000', web.ip)
      const open = await openPorts(outside.world, '-sS', '1-2000', router.outside)
      assert.deepEqual(open, ['tcp/1000', 'tcp/1001', 'tcp/1002', 'tcp/1003', 'tcp/80'])
      assert.deepEqual(await openPorts(outside.world, '-sU', '4995-5005', router.outside), ['udp/5000'])
      for (const source of ['tcp:80', 'tcp:1000-1003', 'udp:5000']) await remove(source)
    })

    it('a forward lasts over kill -9', async () => {
      await add('tcp:8090', `${web.ip}:90`)
      await outside.weft.kill()
      await outside.weft.start()
      for (const host of [web, db]) {
        await host.configure()
        await host.space.ip('route replace default via 10.92.0.1')
      }
      assert.match(await outside.weft.do('forward list lan'), /tcp:8090\s+10\.92\.0\.10:90/)
      await until('the forward works', async () => (await tcpError(outside.world, router.outside, 8090)) === 'none', 60)
      await remove('tcp:8090')
    })

    it('what clashes or makes no sense is refused in one line', async () => {
      await add('tcp:100-110', web.ip)
      const refused = async (args: string[], pattern: RegExp): Promise<void> => {
        const { status, stderr } = await outside.weft.cli(['forward', 'add', 'lan', ...args])
        assert.equal(status, 1, `${args.join(' ')}: ${stderr}`)
        assert.equal(stderr.trim().split('\n').length, 1, stderr)
        assert.match(stderr, pattern)
      }
      await refused(['tcp:105', db.ip], /105.*forwarded already.*tcp:100-110/)
      await refused(['tcp:110-120', db.ip], /110.*forwarded already/)
      await refused(['tcp:0', web.ip], /0/)
      await refused(['tcp:70000', web.ip], /70000/)
      await refused(['tcp:90-80', web.ip], /90-80/)
      await refused(['sctp:80', web.ip], /sctp:80/)
      await refused(['tcp:80', '10.92.0.1'], /10\.92\.0\.1/)
      await refused(['tcp:80', '10.92.0.255'], /10\.92\.0\.255/)
      await refused(['tcp:80', '192.0.2.7'], /192\.0\.2\.7/)
      await refused(['tcp:80-90', `${web.ip}:65530`], /65530|65535|65540/)
      await refused([`tcp:${router.outside}:80`, 'fd92::10'], /family/)
      await add('udp:105', db.ip)
      const gone = await outside.weft.cli(['forward', 'remove', 'lan', 'tcp:999'])
      assert.deepEqual([gone.status, gone.stderr.trim().split('\n').length], [1, 1])
      for (const source of ['tcp:100-110', 'udp:105']) await remove(source)
    })
  },
)
