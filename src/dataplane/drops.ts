/**
 * Why a frame was dropped. Every drop has one of these reasons and is counted at one port: a receive reason at the port
 * the frame came in by, a transmit reason at the port it should have left by. `native/layout.h` mirrors the numbers.
 *
 * Capacity: 64 reasons (DROP_SHIFT in `layout.ts`). Add at the end of its group; the API shows names, never numbers.
 */

// Receive reasons.
export const DROP_RUNT = 1
export const DROP_OVERSIZE = 2
export const DROP_BAD_LENGTH = 3
export const DROP_BAD_OFFLOAD = 4
export const DROP_BAD_SOURCE = 5
export const DROP_DOUBLE_TAG = 6
export const DROP_VLAN_RESERVED = 7
export const DROP_VLAN_NOT_ALLOWED = 8
export const DROP_LINK_LOCAL = 9
export const DROP_LINK_DOWN = 10
export const DROP_SAME_PORT = 11
export const DROP_NO_RECIPIENT = 12
export const DROP_NO_SLOT = 13
export const DROP_RECEIVE_ERROR = 14
// Receive reasons of the guard and the router.
export const DROP_SPOOFED_MAC = 15
export const DROP_SPOOFED_ADDRESS = 16
export const DROP_DHCP_SERVER = 17
export const DROP_ROUTER_ADVERTISEMENT = 18
export const DROP_BAD_ARP = 19
export const DROP_BAD_ND = 20
export const DROP_BAD_IP = 21
export const DROP_BAD_IP_CHECKSUM = 22
export const DROP_IP_OPTIONS = 23
export const DROP_BAD_TRANSPORT = 24
export const DROP_MARTIAN = 25
export const DROP_HOP_LIMIT = 26
export const DROP_NO_ROUTE = 27
export const DROP_NO_NEIGHBOR = 28
export const DROP_NEIGHBOR_QUEUE = 29
export const DROP_TOO_BIG = 30
export const DROP_FRAGMENT_OVERLAP = 31
export const DROP_FRAGMENT_LIMIT = 32
export const DROP_FRAGMENT_TIMEOUT = 33
export const DROP_INVALID = 34
export const DROP_CONNECTION_LIMIT = 35
export const DROP_POLICY = 36
export const DROP_NO_NAT_PORT = 37
export const DROP_NOT_SERVED = 38
export const DROP_SERVICE_BUSY = 39
export const DROP_NOT_ROUTED = 40
export const DROP_ISOLATED = 43
// Of ports whose guest shares its memory.
export const DROP_BAD_DESCRIPTOR = 41
export const DROP_SHARD_ENDED = 42
// Counted by the kernel, not by the frame path.
export const DROP_RECEIVE_OVERFLOW = 44
// Transmit reasons.
export const DROP_EGRESS_DOWN = 48
export const DROP_EGRESS_MTU = 49
export const DROP_QUEUE_FULL = 50
export const DROP_NO_PEER = 51
export const DROP_TRANSMIT_ERROR = 52
export const DROP_SEGMENTATION = 53

/** First of the transmit reasons. */
export const DROP_FIRST_TRANSMIT = DROP_EGRESS_DOWN
export const DROP_REASONS = 64

/** The names by number, as the API and the metrics show them; undefined where a number is not used. */
export const DROP_NAMES: readonly (string | undefined)[] = (() => {
  const names = new Array<string | undefined>(DROP_REASONS).fill(undefined)
  names[DROP_RUNT] = 'runt' // shorter than an Ethernet header
  names[DROP_OVERSIZE] = 'oversize' // longer than the port's MTU allows
  names[DROP_BAD_LENGTH] = 'bad-length' // 802.3 length field beyond the frame (IEEE 802.3 clause 3.2.6)
  names[DROP_BAD_OFFLOAD] = 'bad-offload' // checksum or segmentation request that contradicts the frame
  names[DROP_BAD_SOURCE] = 'bad-source' // source address is a group address or zero
  names[DROP_DOUBLE_TAG] = 'double-tag' // a second VLAN tag behind the first, or a service tag (802.1ad)
  names[DROP_VLAN_RESERVED] = 'vlan-reserved' // VID 4095
  names[DROP_VLAN_NOT_ALLOWED] = 'vlan-not-allowed' // the port is no member of the frame's VLAN
  names[DROP_LINK_LOCAL] = 'link-local' // 01:80:C2:00:00:0X, never forwarded (IEEE 802.1Q table 8-1)
  names[DROP_LINK_DOWN] = 'link-down' // the port's link is down by order
  names[DROP_SAME_PORT] = 'same-port' // the destination is behind the port the frame came from
  names[DROP_NO_RECIPIENT] = 'no-recipient' // no other port may have it
  names[DROP_NO_SLOT] = 'no-slot' // the pool was empty
  names[DROP_RECEIVE_ERROR] = 'receive-error' // the device gave an error in the frame's place
  names[DROP_SPOOFED_MAC] = 'spoofed-mac' // source address is another's: the gateway's, or not the port's own
  names[DROP_SPOOFED_ADDRESS] = 'spoofed-address' // source IP address is another's, or not the port's own
  names[DROP_DHCP_SERVER] = 'dhcp-server' // answers of a DHCP server behind a port that may be none (RFC 7610)
  names[DROP_ROUTER_ADVERTISEMENT] = 'router-advertisement' // or redirect, from a port that may be no router (RFC 6105)
  names[DROP_BAD_ARP] = 'bad-arp' // malformed, or its sender contradicts the frame's
  names[DROP_BAD_ND] = 'bad-nd' // neighbor discovery that breaks RFC 4861
  names[DROP_BAD_IP] = 'bad-ip' // IP header that contradicts the frame
  names[DROP_BAD_IP_CHECKSUM] = 'bad-ip-checksum' // of the IPv4 header
  names[DROP_IP_OPTIONS] = 'ip-options' // source route, or a chain of extension headers too long
  names[DROP_BAD_TRANSPORT] = 'bad-transport' // TCP, UDP or ICMP header cut off or impossible
  names[DROP_MARTIAN] = 'martian' // an address that cannot stand there (RFC 1812, RFC 3704, RFC 6890)
  names[DROP_HOP_LIMIT] = 'hop-limit' // TTL or hop limit ran out
  names[DROP_NO_ROUTE] = 'no-route' // the router knows no way to the destination
  names[DROP_NO_NEIGHBOR] = 'no-neighbor' // the next hop does not answer
  names[DROP_NEIGHBOR_QUEUE] = 'neighbor-queue' // too many packets wait for the next hop's address
  names[DROP_TOO_BIG] = 'too-big' // longer than the next link takes, and must not be fragmented
  names[DROP_FRAGMENT_OVERLAP] = 'fragment-overlap' // fragments contradict each other (RFC 5722)
  names[DROP_FRAGMENT_LIMIT] = 'fragment-limit' // too many fragments wait for their first
  names[DROP_FRAGMENT_TIMEOUT] = 'fragment-timeout' // the first fragment did not come
  names[DROP_INVALID] = 'invalid' // fits no connection and may begin none
  names[DROP_CONNECTION_LIMIT] = 'connection-limit' // the table or the guest's share of it is full
  names[DROP_POLICY] = 'policy' // by a firewall rule or the network's default
  names[DROP_NO_NAT_PORT] = 'no-nat-port' // no outside port was free
  names[DROP_NOT_SERVED] = 'not-served' // to the gateway itself, for a service that it does not have
  names[DROP_SERVICE_BUSY] = 'service-busy' // the service could not take more from this port
  names[DROP_NOT_ROUTED] = 'not-routed' // multicast or broadcast, which the router does not forward
  names[DROP_ISOLATED] = 'isolated' // from an isolated port to another one, by way of the router
  names[DROP_BAD_DESCRIPTOR] = 'bad-descriptor' // a virtqueue's descriptor chain that breaks virtio 1.2, 2.7
  names[DROP_SHARD_ENDED] = 'shard-ended' // in work when the shard's process ended; some of it may have left
  names[DROP_RECEIVE_OVERFLOW] = 'receive-overflow' // came faster than Weft took them from the interface
  names[DROP_EGRESS_DOWN] = 'egress-down' // the link of the port it should leave by is down by order
  names[DROP_EGRESS_MTU] = 'egress-mtu' // longer than the MTU of the port it should leave by
  names[DROP_QUEUE_FULL] = 'queue-full' // the peer does not read fast enough
  names[DROP_NO_PEER] = 'no-peer' // nobody is connected to the socket
  names[DROP_TRANSMIT_ERROR] = 'transmit-error' // the device refused the frame
  names[DROP_SEGMENTATION] = 'segmentation' // could not be cut into segments or have its checksum finished
  return names
})()
