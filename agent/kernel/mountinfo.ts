/** A mount of this process's mount namespace (proc_pid_mountinfo(5)). */
export interface Mount {
  /** The folder of the filesystem that is mounted: `/` for all of it. */
  readonly root: string;
  readonly mountPoint: string;
  readonly filesystem: string;
  readonly options: readonly string[];
}

/** The most mounts that are read. */
const MAX_MOUNTS = 100_000;

/** Parses /proc/PID/mountinfo; lines of another form are left out. Spaces and such in paths are decoded. */
export function parseMountinfo(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split('\n', MAX_MOUNTS)) {
    // 36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/root rw
    const [before, after] = line.split(' - ', 2);
    const [, , , root, mountPoint, options] = before?.split(' ') ?? [];
    const filesystem = after?.split(' ')[0];
    if (root !== undefined && mountPoint !== undefined && options !== undefined && filesystem !== undefined) {
      mounts.push({ root: unescapePath(root), mountPoint: unescapePath(mountPoint), filesystem, options: options.split(',') });
    }
  }
  return mounts;
}

/** Decodes the octal escapes that the kernel writes for blanks, line ends and backslashes (fs/proc_namespace.c, mangle). */
function unescapePath(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
