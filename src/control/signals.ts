/**
 * Signals that Node.js would take for itself, or that would end a process half way, mean nothing to Weft's.
 *
 * SIGUSR1 has Node open its inspector on a TCP port of the loopback, where any local user could run code as the one who
 * runs the switch; a handler of our own takes its place. SIGUSR2 ends a process that has no handler. Both are often
 * sent by log rotation. Each entry point calls this before anything else.
 */
export function ignoreStraySignals(): void {
  for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) process.on(signal, () => {})
}
