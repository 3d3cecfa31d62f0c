/**
 * The QEMU arguments that attach a guest to a port.
 *
 * The guest's MAC is the port's, or one made from the network's uuid and the port's name: QEMU's own default is the
 * same for every guest, and two of them on one network would take each other's frames.
 *
 * For vhost-user the guest's whole memory must be shared, so its size is said here too, and must be that of -m.
 */
import type { QemuAdvice } from './api-results.js'
import { Failure } from './failure.js'
import { stableMac } from './mac.js'
import type { NetworkDefinition, PortDefinition } from './model.js'

/** Of a guest that shares it, unless told. */
const MEMORY = '1G'

/**
 * `memory`: the guest's, as -m takes it; for kind vhost-user alone. Throws ERR_UNSUPPORTED, with advice, for a port that
 * no guest can attach to.
 */
export function qemuAdvice(network: NetworkDefinition, port: PortDefinition, memory?: string): QemuAdvice {
  if (memory !== undefined && port.kind !== 'vhost-user')
    throw new Failure(
      'ERR_INVALID',
      `memory: ${memory} is for ports of kind vhost-user, ${port.name} is a ${port.kind}`,
    )
  const name = /^[A-Za-z]/.test(port.name) ? port.name : `port-${port.name}` // QEMU's ids begin with a letter
  const device = `virtio-net-pci,netdev=${name},mac=${port.mac ?? stableMac(network.uuid, port.name)}`
  const advice = (netdev: string, notes: string[], card = device) => {
    const sized = port.mtu === null && network.mtu === 1500 ? card : `${card},host_mtu=${port.mtu ?? network.mtu}`
    return { arguments: ['-netdev', netdev, '-device', sized], notes }
  }
  const id = `id=${name}`
  switch (port.kind) {
    case 'qemu': {
      if (port.dgram) {
        // Of two datagram sockets each has a path: one is the port's, the other lies beside it.
        const [guest, weft] = port.client ? [port.path, `${port.path}.weft`] : [`${port.path}.guest`, port.path]
        const paths = `local.type=unix,local.path=${escaped(guest)},remote.type=unix,remote.path=${escaped(weft)}`
        return advice(`dgram,${id},${paths}`, [
          'the sysctl net.unix.max_dgram_qlen bounds the frames in flight (10 by default: raise it to 4096)',
        ])
      }
      const side = port.client ? 'server=on' : 'server=off'
      const notes = port.client
        ? ['Weft connects again by itself when either side is restarted']
        : [
            'so that the guest connects again when Weft is restarted, add reconnect-ms=1000 (QEMU 9.2 and later) or ' +
              'reconnect=1 (8.0 to 9.1) to -netdev; for QEMU 7.2 make the port with --client',
          ]
      return advice(`stream,${id},${side},${address(port.path)}`, notes)
    }
    case 'vhost-user': {
      const { queues, client, path } = port
      const several = queues === 1 ? '' : `,queues=${queues}`
      const card = queues === 1 ? device : `${device},mq=on,vectors=${queues * 2 + 2}`
      const { arguments: words, notes } = advice(
        `vhost-user,${id},chardev=${name}-socket${several}`,
        [
          'the size of the memory must be that of -m, if that is given: weft qemu … --memory SIZE',
          'a guest with several such cards takes -object and -machine once',
          'under TCG, QEMU 7.2 crashes with MSI-X on vhost-user: add vectors=0 to -device (KVM and later ones are well)',
          client
            ? 'QEMU waits at its start until Weft has connected; Weft connects again when either side is restarted'
            : 'QEMU connects again when Weft is restarted (reconnect=1; from QEMU 9.2 on also reconnect-ms=1000)',
        ],
        card,
      )
      const shared = `memory-backend-memfd,id=weft-memory,size=${memory ?? MEMORY},share=on`
      const chardev = `socket,id=${name}-socket,path=${escaped(path)},${client ? 'server=on' : 'reconnect=1'}`
      return {
        arguments: ['-object', shared, '-machine', 'memory-backend=weft-memory', '-chardev', chardev, ...words],
        notes,
      }
    }
    case 'netdev':
      return advice(`tap,${id},ifname=${escaped(port.dev)},script=no,downscript=no`, [
        `the interface ${port.dev} must be a TAP, and Weft reads what the guest sends there`,
      ])
    case 'tap':
      throw new Failure(
        'ERR_UNSUPPORTED',
        `port ${port.name} holds the TAP ${port.dev} itself, so no guest can; for a guest make a port of kind qemu`,
      )
    case 'pcap':
      throw new Failure('ERR_UNSUPPORTED', `port ${port.name} is a capture file, no guest attaches to it`)
  }
}

/** The same for a shell: words that need it in quotes. */
export function shellLine(words: readonly string[]): string {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ')
}

function address(path: string): string {
  const tcp = /^(?:\[([^\]/]+)\]|([^/:]+)):(\d+)$/.exec(path)
  if (tcp === null) return `addr.type=unix,addr.path=${escaped(path)}`
  return `addr.type=inet,addr.host=${tcp[1] ?? tcp[2]},addr.port=${tcp[3]}`
}

/** A comma in a value is doubled. */
const escaped = (value: string): string => value.replaceAll(',', ',,')
