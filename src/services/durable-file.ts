/**
 * Files that must be whole after a crash at any instant: written beside their place, synced, renamed, the folder
 * synced.
 *
 * A rename within a folder is atomic (rename(2)): who opens the path finds the old content or the new. The name itself
 * is on the disk once the folder has been synced (fsync(2)), and so is a name that was made or removed.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

/** Puts a file with this content at `path`, for good when it returns. Errors as with `exchangeFile`. */
export function replaceFile(path: string, content: Uint8Array, mode = 0o600): void {
  closeSync(exchangeFile(path, content, mode))
  syncFolder(dirname(path))
}

/**
 * The same for who goes on writing to the file: the folder is not synced yet, so that the caller can let go of the old
 * file before anything else can fail. On an error what stood at `path` is as it was, nothing of the new content is
 * left, and what the system says is thrown.
 * @returns the new file, open for writing: the caller's to close
 */
export function exchangeFile(path: string, content: Uint8Array, mode = 0o600): number {
  const temporary = join(dirname(path), `.${basename(path)}.new`)
  let fd = -1
  try {
    fd = openSync(temporary, 'w', mode)
    writeAll(fd, content, 0)
    fsyncSync(fd)
    renameSync(temporary, path)
    return fd
  } catch (error) {
    if (fd >= 0) closeSync(fd)
    rmSync(temporary, { force: true })
    throw error
  }
}

/** Writes all bytes at a position, however many calls it takes. */
export function writeAll(fd: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, position + at)
}

/** Makes the names in a folder durable: those that came, went, or were exchanged. */
export function syncFolder(folder: string): void {
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
