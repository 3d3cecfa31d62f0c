/**
 * The ends of a packet: family, protocol, addresses, ports. What connections, mappings and the firewall compare.
 *
 * `Headers` is one, filled from the packet in hand; others hold what stands for it: the ends with an address
 * translated, those of its reply. They are made once and written over for each packet, so nothing here allocates.
 */
export class Flow {
  /** 4 or 6 */
  family = 4
  /** of the transport, behind IPv6 extension headers */
  protocol = 0
  /** address words, most significant first; IPv4 has the first alone, the others are 0 */
  source0 = 0
  source1 = 0
  source2 = 0
  source3 = 0
  destination0 = 0
  destination1 = 0
  destination2 = 0
  destination3 = 0
  /** TCP, UDP, SCTP, DCCP, UDP-Lite: 0 to 65535; ICMP echo and timestamp queries: the identifier, in both; else 0 */
  sourcePort = 0
  destinationPort = 0

  /** Takes all of another's ends. */
  copy(from: Flow): void {
    this.family = from.family
    this.protocol = from.protocol
    this.source0 = from.source0
    this.source1 = from.source1
    this.source2 = from.source2
    this.source3 = from.source3
    this.sourcePort = from.sourcePort
    this.copyDestination(from)
  }

  /** Takes another's destination and keeps the rest. */
  copyDestination(from: Flow): void {
    this.destination0 = from.destination0
    this.destination1 = from.destination1
    this.destination2 = from.destination2
    this.destination3 = from.destination3
    this.destinationPort = from.destinationPort
  }

  /** Takes another's ends the other way round: those of its replies, where nothing is translated. */
  reverse(from: Flow): void {
    this.family = from.family
    this.protocol = from.protocol
    this.source0 = from.destination0
    this.source1 = from.destination1
    this.source2 = from.destination2
    this.source3 = from.destination3
    this.sourcePort = from.destinationPort
    this.destination0 = from.source0
    this.destination1 = from.source1
    this.destination2 = from.source2
    this.destination3 = from.source3
    this.destinationPort = from.sourcePort
  }
}
