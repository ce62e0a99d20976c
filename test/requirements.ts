import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/**
 * What a test needs of the machine. Each function gives false where it is there, and else the reason, which node:test
 * takes as `skip` and the closing summary of `npm test` repeats by name.
 */

/** Root, cgroup2 and BPF: what loads and attaches programs. */
export function missingForKernel(): string | false {
  if (process.platform !== 'linux') {
    return 'needs Linux';
  }
  if (process.getuid?.() !== 0) {
    return 'needs root (run npm test with sudo)';
  }
  if (!existsSync('/sys/kernel/btf/vmlinux')) {
    return 'needs a kernel with BTF (/sys/kernel/btf/vmlinux)';
  }
  return missingCommands(['ip', 'iptables', 'iptables-save', 'setpriv', 'conntrack', 'bpftool']);
}

/** Chromium, for what shows in a browser. */
export function missingForBrowser(): string | false {
  return findChromium() === undefined ? 'needs Chromium (Debian package chromium)' : false;
}

/** An OpenSSH server's program. */
export function missingForSshServer(): string | false {
  return existsSync('/usr/sbin/sshd') ? missingCommands(['ssh-keygen']) : 'needs /usr/sbin/sshd (Debian package openssh-server)';
}

/** Gives the path of Chromium: $CHROMIUM, or the first of the usual commands on the PATH. */
export function findChromium(): string | undefined {
  const wanted = process.env['CHROMIUM'];
  if (wanted !== undefined) {
    return wanted;
  }
  return ['chromium', 'chromium-browser', 'google-chrome'].map(findCommand).find((path) => path !== undefined);
}

/** Gives the path of a command, looking through the PATH and the folders of system programs. */
export function findCommand(name: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

function missingCommands(names: readonly string[]): string | false {
  const missing = names.filter((name) => findCommand(name) === undefined);
  return missing.length === 0 ? false : `needs ${missing.join(', ')}`;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
