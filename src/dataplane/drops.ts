/**
 * Why a frame was dropped. Every drop has one of these reasons and is counted at one port: a receive reason at the port
 * the frame came in by, a transmit reason at the port it should have left by. `native/layout.h` mirrors the numbers.
 *
 * Capacity: 32 reasons (DROP_SHIFT in `layout.ts`). Add at the end of its group; the API shows names, never numbers.
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
// Transmit reasons.
export const DROP_EGRESS_DOWN = 16
export const DROP_EGRESS_MTU = 17
export const DROP_QUEUE_FULL = 18
export const DROP_NO_PEER = 19
export const DROP_TRANSMIT_ERROR = 20
export const DROP_SEGMENTATION = 21

/** First of the transmit reasons. */
export const DROP_FIRST_TRANSMIT = DROP_EGRESS_DOWN
export const DROP_REASONS = 32

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
  names[DROP_EGRESS_DOWN] = 'egress-down' // the link of the port it should leave by is down by order
  names[DROP_EGRESS_MTU] = 'egress-mtu' // longer than the MTU of the port it should leave by
  names[DROP_QUEUE_FULL] = 'queue-full' // the peer does not read fast enough
  names[DROP_NO_PEER] = 'no-peer' // nobody is connected to the socket
  names[DROP_TRANSMIT_ERROR] = 'transmit-error' // the device refused the frame
  names[DROP_SEGMENTATION] = 'segmentation' // could not be cut into segments or have its checksum finished
  return names
})()
