/**
 * Kinds of addresses, by the words that a packet's headers have of them: those that cannot stand where they do, groups,
 * and those that stay on their link.
 *
 * Standards: RFC 1812 section 5.3.7, RFC 3704, RFC 6890. What is a martian by where it comes from, the router knows.
 */

/** No host's address: 0/8, 127/8, multicast, 240/4 and the limited broadcast. */
export function isMartianSource4(ip: number): boolean {
  const first = ip >>> 24
  return first === 0 || first === 127 || first >= 224
}

/** 0/8, 127/8 and 240/4; neither multicast nor the limited broadcast, see `isGroup4`. */
export function isMartianDestination4(ip: number): boolean {
  const first = ip >>> 24
  return first === 0 || first === 127 || (first >= 240 && ip !== -1)
}

/** Multicast or the limited broadcast: never routed here. */
export function isGroup4(ip: number): boolean {
  return ip >>> 28 === 14 || ip === -1
}

/** 169.254/16 (RFC 3927): stays on its link. */
export function isLinkLocal4(ip: number): boolean {
  return ip >>> 16 === 0xa9fe
}

/** No host's address on a wire: multicast, ::, ::1 and the rest of ::/96, ::ffff:0:0/96 (IPv4 in IPv6). */
export function isMartianSource6(ip0: number, ip1: number, ip2: number): boolean {
  return ip0 >>> 24 === 0xff || isMartianDestination6(ip0, ip1, ip2)
}

/** ::/96, which holds :: and ::1, and ::ffff:0:0/96; not multicast, see `isGroup6`. */
export function isMartianDestination6(ip0: number, ip1: number, ip2: number): boolean {
  return (ip0 | ip1) === 0 && (ip2 === 0 || ip2 === 0xffff)
}

export function isGroup6(ip0: number): boolean {
  return ip0 >>> 24 === 0xff
}

/** fe80::/10: stays on its link. */
export function isLinkLocal6(ip0: number): boolean {
  return ip0 >>> 22 === 0x3fa
}
