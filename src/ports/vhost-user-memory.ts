/**
 * What a vhost-user front-end hands over as descriptors, looked at before a shard uses it, and the table of the guest's
 * memory regions.
 *
 * The peer is not trusted. A memory file must be shared memory of the kernel's own (memfd, tmpfs, hugetlbfs): a page of
 * a file system that somebody serves from user space (FUSE) could be withheld, and the shard that touches it would
 * wait for ever. It must be as long as is claimed; that it may be shortened later is the shard's to survive. An event's
 * descriptor must be an eventfd, and is made non-blocking: writing to a full pipe would block.
 *
 * Regions are at most REGIONS_MAX, none empty, none beyond 2^64, and overlap neither in the guest's addresses nor in
 * the front-end's. The table holds each region's descriptor open, for the next shard.
 */
import { fstatSync, readlinkSync, statfsSync } from 'node:fs'
import type { GuestChange } from './device.js'
import { check, native } from './native.js'
import { ProtocolError, type Region } from './vhost-user-message.js'

/** What GET_MAX_MEM_SLOTS answers. */
export const REGIONS_MAX = 32
const ADDRESSES = 1n << 64n

/** Magic numbers of statfs(2). */
const TMPFS = 0x01021994
const HUGETLBFS = 0x958458f6
const RAMFS = 0x858458f6

/** Refuses a descriptor that is not shared memory of at least `bytes`. */
export function requireMemory(fd: number, bytes: bigint, what: string): void {
  const { type } = statfsSync(`/proc/self/fd/${fd}`)
  const status = fstatSync(fd, { bigint: true })
  if (!status.isFile() || (type !== TMPFS && type !== HUGETLBFS && type !== RAMFS))
    throw new ProtocolError(`${what} is not shared memory (memfd, tmpfs or hugetlbfs)`)
  if (status.size < bytes) throw new ProtocolError(`${what} is a file of ${status.size} bytes, not of ${bytes}`)
}

/** Refuses a descriptor that is not an eventfd; makes it non-blocking. */
export function requireEvent(fd: number, what: string): void {
  if (readlinkSync(`/proc/self/fd/${fd}`) !== 'anon_inode:[eventfd]') throw new ProtocolError(`${what} is no eventfd`)
  check(native.setNonBlocking(fd), what)
}

interface HeldRegion extends Region {
  fd: number
}

export class GuestMemory {
  private regions: HeldRegion[] = []

  get isEmpty(): boolean {
    return this.regions.length === 0
  }

  /** Replaces the table. Takes the descriptors, one a region, unless it throws. */
  set(regions: readonly Region[], fds: readonly number[]): void {
    const wanted = regions.map((region, i) => ({ ...region, fd: fds[i] ?? -1 }))
    wanted.forEach((region, i) => {
      requireRegion(region, i, wanted.slice(0, i))
    })
    this.close()
    this.regions = wanted
  }

  /** Adds a region. Takes the descriptor unless it throws. */
  add(region: Region, fd: number): void {
    const { length } = this.regions
    if (length >= REGIONS_MAX)
      throw new ProtocolError(`the peer added a memory region to ${length}, the most there are`)
    const wanted = { ...region, fd }
    requireRegion(wanted, length, this.regions)
    this.regions = [...this.regions, wanted]
  }

  /** Removes the region of these addresses; its offset does not matter. */
  remove({ guest, user, bytes }: Region): void {
    const isMeant = (one: Region): boolean => one.guest === guest && one.user === user && one.bytes === bytes
    const found = this.regions.find(isMeant)
    if (!found) throw new ProtocolError(`the peer removed a memory region at ${hex(guest)} that it had not shared`)
    native.close(found.fd)
    this.regions = this.regions.filter((one) => one !== found)
  }

  /** The table as the shard is told of it. */
  change(): { change: GuestChange; fds: number[] } {
    const regions = this.regions.map(({ guest, bytes, user, offset }) => ({
      guest: String(guest),
      bytes: String(bytes),
      user: String(user),
      offset: String(offset),
    }))
    return { change: { set: 'memory', regions }, fds: this.regions.map(({ fd }) => fd) }
  }

  close(): void {
    for (const { fd } of this.regions) native.close(fd)
    this.regions = []
  }
}

function requireRegion(region: HeldRegion, index: number, others: readonly HeldRegion[]): void {
  const { guest, bytes, user, offset, fd } = region
  const what = `memory region ${index} (${hex(guest)}, ${bytes} bytes)`
  if (bytes === 0n) throw new ProtocolError(`${what} is empty`)
  for (const start of [guest, user, offset])
    if (start + bytes > ADDRESSES) throw new ProtocolError(`${what} goes beyond the last address`)
  for (const other of others) {
    if (overlap(guest, bytes, other.guest, other.bytes) || overlap(user, bytes, other.user, other.bytes))
      throw new ProtocolError(`${what} overlaps the one at ${hex(other.guest)}`)
  }
  requireMemory(fd, offset + bytes, what)
}

const overlap = (a: bigint, aBytes: bigint, b: bigint, bBytes: bigint): boolean => a < b + bBytes && b < a + aBytes
const hex = (address: bigint): string => `0x${address.toString(16)}`
