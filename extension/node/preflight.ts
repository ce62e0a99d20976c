import { MeshpathError } from '../../agent/protocol/errors.ts';

/** What a part of the preflight script printed: keyword → values in their order. */
export type Findings = ReadonlyMap<string, readonly string[]>;

const MAX_PATH_LENGTH = 1024;

/**
 * Gives one script of several parts, so that looking at a node takes one round trip. A part prints with
 * `say KEYWORD VALUE`; what it runs gets no input.
 */
export function buildPreflightScript(parts: readonly string[]): string {
  return [`LC_ALL=C; export LC_ALL; exec </dev/null`, `say() { printf '%s\\t%s\\n' "$1" "$2"; }`, ...parts, 'exit 0'].join('\n');
}

/** Looks at the system itself: what it is, and where the user's files are; leaves that in `cache_folder` for later parts. */
export const SYSTEM_SCRIPT = `
say system "$(uname -s)"
say machine "$(uname -m)"
case "\${XDG_CACHE_HOME:-}" in /*) cache_folder=$XDG_CACHE_HOME ;; *) cache_folder=\${HOME:+$HOME/.cache} ;; esac
say cache "$cache_folder"
if [ -r /etc/os-release ]; then
  say distribution "$(sed -n 's/^ID=//p' /etc/os-release | head -n 1)"
  say distribution-like "$(sed -n 's/^ID_LIKE=//p' /etc/os-release | head -n 1)"
  say distribution-name "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release | head -n 1)"
fi
`;

/** Reads what the preflight script printed. */
export function parseFindings(output: string): Findings {
  const findings = new Map<string, string[]>();
  for (const line of output.split('\n')) {
    const tab = line.indexOf('\t');
    if (tab > 0) {
      const keyword = line.slice(0, tab);
      const values = findings.get(keyword) ?? [];
      values.push(line.slice(tab + 1));
      findings.set(keyword, values);
    }
  }
  return findings;
}

/** Gives a value of os-release(5) without its quotes. */
export function unquoteOsRelease(value: string | undefined): string {
  return (value ?? '').replace(/^(["'])(.*)\1$/, '$2');
}

/** Throws AGENT_PLATFORM_UNSUPPORTED unless the node runs Linux. */
export function requireLinux(findings: Findings): void {
  const system = findings.get('system')?.[0] ?? 'unknown';
  if (system !== 'Linux') {
    throw new MeshpathError({
      code: 'AGENT_PLATFORM_UNSUPPORTED',
      message: 'This node does not run Linux.',
      reason: `uname says '${system}'; eBPF and iptables are parts of Linux.`,
      remedy: 'Connect to a Linux node, or to the simulated node, which needs none.',
    });
  }
}

/** Gives the folder for cached files on the node, absolute; AGENT_UPLOAD_FAILED where the user has none. */
export function readCacheFolder(findings: Findings): string {
  const path = findings.get('cache')?.[0] ?? '';
  if (!isSafePath(path)) {
    throw new MeshpathError({
      code: 'AGENT_UPLOAD_FAILED',
      message: 'There is no place for the agent on the node.',
      reason: path.startsWith('/') ? 'The path of the home folder is not usable.' : 'HOME is not set for this user.',
      remedy: 'Set HOME or XDG_CACHE_HOME for this user on the node to an absolute path.',
    });
  }
  return path.replace(/\/+$/, '');
}

/** Says whether text of a node is an absolute path of sane length without control characters. */
export function isSafePath(path: string): boolean {
  return path.startsWith('/') && path.length <= MAX_PATH_LENGTH && !/\p{Cc}/u.test(path);
}
