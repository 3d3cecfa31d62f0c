/**
 * Counts by port, and which port has the highest: a tournament over the ports. The FDB asks it who has to make room.
 *
 * A full binary tree whose leaves are the ports; each inner node holds the port that has more of the two below it, the
 * lower number if they have the same. A change walks from its leaf to the root, 11 steps for 2,048 ports; the answer
 * stands at the root. So an address flood into a full table costs the same for each frame, however many ports there
 * are.
 */

export class Ranking {
  /** counts by port; to read, `add` writes */
  readonly counts: Int32Array
  private readonly winners: Int32Array // node 1 is the root, the children of n are 2n and 2n + 1
  private readonly leaves: number

  constructor(ports: number) {
    let leaves = 1
    while (leaves < ports) leaves *= 2
    this.leaves = leaves
    this.counts = new Int32Array(leaves)
    this.winners = new Int32Array(leaves * 2)
    for (let port = 0; port < leaves; port++) this.winners[leaves + port] = port
    for (let node = leaves - 1; node > 0; node--) this.winners[node] = this.winners[node * 2]
  }

  add(port: number, change: number): void {
    const { counts, winners } = this
    counts[port] += change
    for (let node = (this.leaves + port) >> 1; node > 0; node >>= 1) {
      const left = winners[node << 1]
      const right = winners[(node << 1) | 1]
      winners[node] = counts[right] > counts[left] ? right : left
    }
  }

  /** The port with the highest count. */
  first(): number {
    return this.winners[1]
  }
}
