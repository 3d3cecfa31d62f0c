/**
 * A real guest: QEMU under TCG with the image of guest-image.ts, ready in about two seconds on an idle machine.
 *
 * Commands go over a virtio-serial port, one at a time: `<id> <shell command>` in, the output and `@@RC <id> <status>`
 * out. The guest has one network card for each netdev given; nothing in it is configured: tests do by `exec`.
 * QEMU needs no privilege unless its netdev does, and runs in a namespace of the lab when it must find its TAP there.
 * KVM is never used: where it exists at all on test machines it is not to be relied on.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { type Socket, connect } from 'node:net'
import { join } from 'node:path'
import { Background, until, words } from './commands.js'
import { type GuestImage, guestImage } from './guest-image.js'
import type { Weft } from './daemon.js'
import type { Lab, Namespace } from './namespaces.js'

export interface GuestOptions {
  name: string
  arguments: readonly string[] // -netdev … -device …: what `weft qemu` prints, or a netdev of the test's own
  namespace?: Namespace // QEMU runs in it
  reboots?: boolean // a reboot of the guest is one, not QEMU's end
  incoming?: boolean // boots nothing: waits for a guest that migrates here
}

/** The memory of a guest, as -m takes it. */
export const GUEST_MEMORY = '128M'

/**
 * What `weft qemu` prints for ports of kind vhost-user, as arguments of one guest: with the size of its memory, which
 * is shared once, and without MSI-X, with which QEMU 7.2 crashes there under TCG.
 */
export async function sharingArguments(weft: Weft, ...ports: [network: string, port: string][]): Promise<string[]> {
  const all: string[] = []
  for (const [network, port] of ports) {
    const text = await weft.do(['qemu', network, port, '--memory', GUEST_MEMORY])
    const args = words(text.split('\n')[0] ?? '')
    const netdev = args.indexOf('-chardev')
    all.push(...(all.length === 0 ? args.slice(0, netdev) : []), ...args.slice(netdev))
  }
  return all.map((word) => (word.startsWith('virtio-net-pci,') ? `${word},vectors=0,romfile=` : word))
}

export class Guest {
  readonly name: string
  private readonly program: Background
  private readonly folder: string
  private control: Socket | null = null
  private text = ''
  private serial = 0

  private constructor(name: string, program: Background, folder: string) {
    this.name = name
    this.program = program
    this.folder = folder
  }

  /** Boots a guest and waits until it takes commands. */
  static async boot(lab: Lab, options: GuestOptions): Promise<Guest> {
    const image = await guestImage()
    const folder = join(lab.folder, `guest-${options.name}`)
    mkdirSync(folder, { recursive: true })
    const started = machine(image, folder).filter((word) => word !== '-no-reboot' || options.reboots !== true)
    const incoming = options.incoming === true ? ['-incoming', `unix:${join(folder, 'incoming')}`] : []
    const args = [...started, ...options.arguments, ...incoming]
    const qemu = 'qemu-system-x86_64'
    const program = options.namespace?.spawn(qemu, args) ?? new Background(qemu, args)
    const guest = new Guest(options.name, program, folder)
    try {
      await guest.dial()
      if (options.incoming !== true) await guest.seesReady()
    } catch (error) {
      await guest.kill()
      throw error
    }
    return guest
  }

  get pid(): number {
    return this.program.pid
  }

  get running(): boolean {
    return this.program.running
  }

  /** Runs a shell command in the guest. A command left in the background there must redirect its output. */
  async exec(command: string, seconds = 60): Promise<{ rc: number; output: string }> {
    this.serial++
    const end = new RegExp(`\\n@@RC ${this.serial} (\\d+)\\n`)
    this.text = ''
    this.control?.write(`${this.serial} ${command}\n`)
    const found = await until(`guest ${this.name} runs: ${command}`, () => this.check() && end.exec(this.text), seconds)
    return { rc: Number(found[1]), output: this.text.slice(0, found.index) }
  }

  /** Runs a command that must succeed and returns its output. */
  async run(command: string, seconds = 60): Promise<string> {
    const { rc, output } = await this.exec(command, seconds)
    if (rc !== 0) throw new Error(`guest ${this.name}: ${command}: status ${rc}: ${output}`)
    return output
  }

  /** The MAC address of a network card. */
  async mac(device = 'eth0'): Promise<string> {
    return (await this.run(`cat /sys/class/net/${device}/address`)).trim()
  }

  /** Gives a network card an address and takes it up. */
  async configure(address: string, device = 'eth0'): Promise<void> {
    await this.run(`ip addr add ${address} dev ${device} && ip link set ${device} up`)
  }

  /** Restarts the guest, not QEMU; needs `reboots`. */
  async reboot(): Promise<void> {
    this.text = ''
    this.control?.write('0 reboot -f\n')
    await this.seesReady()
  }

  /** Tells QEMU's monitor; its answer. */
  async monitor(command: string): Promise<string> {
    const socket = await dial(join(this.folder, 'monitor'))
    let text = ''
    socket.setEncoding('utf8').on('data', (more: string) => {
      text += more
    })
    socket.on('error', () => {})
    const prompts = (count: number) => () => this.check() && text.split('(qemu) ').length > count
    await until('the monitor is there', prompts(1))
    const start = text.length
    socket.write(`${command}\n`)
    await until(`the monitor does: ${command}`, prompts(2), 60)
    socket.destroy()
    return text.slice(start).replace('(qemu) ', '')
  }

  /** Moves the running guest into another QEMU, which waits for it; this one has stopped it then. */
  async migrate(to: Guest): Promise<void> {
    await this.monitor(`migrate -d unix:${join(to.folder, 'incoming')}`)
    await until(
      `guest ${this.name} has migrated`,
      async () => {
        const info = await this.monitor('info migrate')
        if (/Migration status: completed/.test(info)) return true
        throw new Error(info)
      },
      60,
    )
  }

  /** Stops the virtual CPU and QEMU with it: the guest's end neither reads nor writes until `resume`. */
  freeze(): void {
    this.program.signal('SIGSTOP')
  }

  resume(): void {
    this.program.signal('SIGCONT')
  }

  async kill(): Promise<void> {
    this.control?.destroy()
    await this.program.stop('SIGKILL')
  }

  private check(): true {
    if (this.program.running) return true
    throw new Error(`QEMU of guest ${this.name} ended: ${this.program.stderr}\n${this.console()}`)
  }

  private console(): string {
    const path = join(this.folder, 'console')
    return existsSync(path) ? readFileSync(path, 'utf8').slice(-2000) : ''
  }

  private async dial(): Promise<void> {
    const path = join(this.folder, 'control')
    this.control = await until('QEMU opens the control channel', () => this.check() && dial(path), 30)
    this.control.setEncoding('utf8').on('data', (text: string) => {
      this.text += text
    })
    this.control.on('error', () => {})
  }

  private async seesReady(): Promise<void> {
    await until(
      `guest ${this.name} is ready`,
      () => {
        this.check()
        if (this.text.includes('@@READY')) return true
        throw new Error(`console: ${this.console()}`)
      },
      90,
    )
  }
}

const dial = (path: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(path)
    socket.once('connect', () => resolve(socket))
    socket.once('error', reject)
  })

function machine(image: GuestImage, folder: string): string[] {
  return [
    ...words('-nodefaults -no-user-config -display none -no-reboot -accel tcg -M pc -device virtio-serial-pci'),
    '-m',
    `${GUEST_MEMORY},slots=2,maxmem=512M`,
    '-kernel',
    image.kernel,
    '-initrd',
    image.initrd,
    '-append',
    'console=ttyS0 quiet panic=-1 mitigations=off audit=0 nokaslr',
    '-serial',
    `file:${join(folder, 'console')}`,
    '-chardev',
    `socket,id=ctl,path=${join(folder, 'control')},server=on,wait=off`,
    '-device',
    'virtserialport,chardev=ctl,name=ctl',
    '-monitor',
    `unix:${join(folder, 'monitor')},server=on,wait=off`,
  ]
}
