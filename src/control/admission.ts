/**
 * Places of connections and clients, a share each for who may take them, and the time that a connection has to say
 * what it wants.
 *
 *   who                                 connections   clients
 *   the daemon's user, root                 128          64     only its own processes can crowd it out
 *   a member of the group, each user         16           8     members together 64 and 32
 *   TCP without the token                    16           -     what shows the token has a client's place instead
 *   TCP with the token                       32          32
 *
 * Everybody together: 64 clients, of which 16 are kept for the daemon's user and root. So no number of silent
 * connections to a TCP port, and no member of the group, keeps root from its own daemon.
 *
 * A connection that is no client has 5 s for each request and 30 s to read the answer, by timers of its own: Node looks
 * at its own limits only every 30 s.
 */
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

const REQUEST_MILLIS = 5_000
const ANSWER_MILLIS = 30_000
const CLIENT_LIMIT = 64
const KEPT_CLIENTS = 16

/** Of whom a connection is: of root or the daemon's own user, of a user in the group, of somebody on TCP. */
export type Party = 'owner' | 'tcp' | { uid: number }

interface Shares {
  connections: number
  clients: number
  /** of a group's members together */
  allConnections?: number
  allClients?: number
}

const OWNER: Shares = { connections: 128, clients: CLIENT_LIMIT }
const MEMBER: Shares = { connections: 16, clients: 8, allConnections: 64, allClients: 32 }
const TCP: Shares = { connections: 16, clients: 32 }

export class Admission {
  private readonly places = new Set<Place>()

  get clients(): number {
    return this.count((place) => place.isClient)
  }

  /** A place for a connection that has just come; a sentence if there is none. It goes when the socket closes. */
  admit(socket: Socket, party: Party): Place | string {
    const shares = sharesOf(party)
    const mine = this.count((place) => same(place.party, party) && (party !== 'tcp' || !place.isClient))
    if (mine >= shares.connections) return `${mine} connections ${saying(party)} are open`
    const members = this.count((place) => typeof place.party === 'object')
    if (shares.allConnections !== undefined && members >= shares.allConnections) {
      return `${members} connections of the group's members are open`
    }
    const place = new Place(socket, party, () => this.places.delete(place))
    this.places.add(place)
    return place
  }

  /** Why a connection cannot become a client now; null if it can. */
  refusesClient(place: Place): string | null {
    const { party } = place
    const shares = sharesOf(party)
    const all = this.clients
    if (all >= CLIENT_LIMIT) return `${CLIENT_LIMIT} clients are connected`
    if (party !== 'owner' && all >= CLIENT_LIMIT - KEPT_CLIENTS) return `${all} clients are connected`
    const mine = this.count((one) => one.isClient && same(one.party, party))
    if (mine >= shares.clients) return `${mine} clients ${saying(party)} are connected`
    const members = this.count((one) => one.isClient && typeof one.party === 'object')
    if (shares.allClients !== undefined && members >= shares.allClients)
      return `${members} clients of the group's members`
    return null
  }

  private count(holds: (place: Place) => boolean): number {
    let count = 0
    for (const place of this.places) if (holds(place)) count++
    return count
  }
}

export class Place {
  readonly party: Party
  isClient = false
  private readonly socket: Duplex
  private timer: NodeJS.Timeout | null = null

  constructor(socket: Socket, party: Party, onClose: () => void) {
    this.socket = socket
    this.party = party
    this.within(REQUEST_MILLIS)
    socket.once('close', () => {
      this.within(null)
      onClose()
    })
  }

  /** A request has come and is being answered. */
  asked(): void {
    if (!this.isClient) this.within(ANSWER_MILLIS)
  }

  /** The answer has gone: the next request may come. */
  answered(): void {
    if (!this.isClient) this.within(REQUEST_MILLIS)
  }

  /** From now on it is bounded as a client is, see `session.ts`. */
  become(): void {
    this.isClient = true
    this.within(null)
  }

  private within(millis: number | null): void {
    if (this.timer !== null) clearTimeout(this.timer)
    this.timer = millis === null ? null : setTimeout(() => this.socket.destroy(), millis)
  }
}

function sharesOf(party: Party): Shares {
  if (party === 'owner') return OWNER
  return party === 'tcp' ? TCP : MEMBER
}

function same(one: Party, other: Party): boolean {
  return typeof one === 'object' && typeof other === 'object' ? one.uid === other.uid : one === other
}

function saying(party: Party): string {
  if (typeof party === 'object') return `of user ${party.uid}`
  return party === 'tcp' ? 'by TCP' : 'of this user'
}
