import { MeshpathError } from '../../agent/protocol/errors.ts';
import { isSafePath, unquoteOsRelease } from './preflight.ts';
import type { Findings } from './preflight.ts';
import { quoteForShell } from './shellScript.ts';

export const MIN_NODE_MAJOR = 20;

/** Node.js as it was found on a node. */
export interface NodeRuntime {
  /** Absolute. */
  readonly path: string;
  /** `v20.20.2`. */
  readonly version: string;
  /** As Node.js names it: x64, arm64 … */
  readonly arch: string;
  /** The C library that it runs on, which decides which native libraries it can load. */
  readonly libc: 'glibc' | 'musl';
}

/** Old syntax on purpose: very old programs of the name must be able to run it and say their version. */
const DESCRIBE_NODE =
  'var r=process.report;if(r)r.excludeNetwork=true;' +
  '[process.version,process.arch,r&&r.getReport&&r.getReport().header.glibcVersionRuntime?"glibc":"musl"].join(" ")';

/**
 * Gives the part of the preflight script that looks for Node.js: the configured path, the PATH, the usual folders and
 * version managers, and stops at the first that is new enough.
 */
export function buildNodeSearch(configuredPath: string | undefined): string {
  return `
node_found=
node_seen=
node_try() {
  [ -z "$node_found" ] && [ -n "$1" ] && [ -f "$1" ] && [ -x "$1" ] || return 0
  case "$node_seen" in *"|$1|"*) return 0 ;; esac
  node_seen="$node_seen|$1|"
  node_about=$("$1" -p ${quoteForShell(DESCRIBE_NODE)} 2>/dev/null) || node_about=
  say node "$node_about $1"
  node_major=\${node_about#v}
  node_major=\${node_major%%.*}
  [ "$node_major" -ge ${MIN_NODE_MAJOR} ] 2>/dev/null && node_found=1
  return 0
}
${
  configuredPath === undefined
    ? `node_try "$(command -v node 2>/dev/null)"
node_try "$(command -v nodejs 2>/dev/null)"
for node_path in /usr/local/bin/node /usr/bin/node /usr/bin/nodejs /opt/node*/bin/node /usr/local/node*/bin/node /snap/bin/node \\
  "$HOME"/.nvm/versions/node/*/bin/node "$HOME"/.local/share/fnm/node-versions/*/installation/bin/node \\
  "$HOME"/.local/share/mise/installs/node/*/bin/node "$HOME"/.asdf/installs/nodejs/*/bin/node \\
  "$HOME"/.volta/tools/image/node/*/bin/node "$HOME"/n/bin/node "$HOME"/.local/bin/node /home/linuxbrew/.linuxbrew/bin/node
do node_try "$node_path"; done`
    : `node_try ${quoteForShell(configuredPath)}`
}
`;
}

/**
 * Gives the Node.js that runs the agent; AGENT_NODE_MISSING or AGENT_NODE_TOO_OLD with what to install on this
 * distribution where there is none.
 */
export function chooseNodeRuntime(findings: Findings, configuredPath: string | undefined): NodeRuntime {
  const found = (findings.get('node') ?? []).flatMap((line) => parseNodeLine(line) ?? []);
  const chosen = found.find((runtime) => majorOf(runtime) >= MIN_NODE_MAJOR);
  if (chosen !== undefined) {
    return chosen;
  }
  const remedy = `${describeInstallation(findings)} Or set “meshpath.node.path” to a Node.js ${MIN_NODE_MAJOR} or newer on the node.`;
  const newest = found.toSorted((a, b) => majorOf(b) - majorOf(a))[0];
  if (newest !== undefined) {
    throw new MeshpathError({
      code: 'AGENT_NODE_TOO_OLD',
      message: 'Node.js on the node is too old for the agent.',
      reason: `${newest.path} is ${newest.version}; the agent needs ${MIN_NODE_MAJOR} or newer.`,
      remedy,
    });
  }
  throw new MeshpathError({
    code: 'AGENT_NODE_MISSING',
    message: 'There is no Node.js on the node.',
    reason:
      configuredPath === undefined
        ? 'It is neither on the PATH nor in any of the usual folders.'
        : `${configuredPath} of the settings is not a Node.js program on the node.`,
    remedy,
  });
}

function parseNodeLine(line: string): NodeRuntime | undefined {
  const match = /^(v\d+\.\d+\.\d+\S*) (\w+) (glibc|musl) (\/.*)$/.exec(line);
  if (match === null) {
    return undefined;
  }
  const [, version = '', arch = '', libc = '', path = ''] = match;
  return isSafePath(path) ? { path, version, arch, libc: libc === 'musl' ? 'musl' : 'glibc' } : undefined;
}

function majorOf(runtime: NodeRuntime): number {
  return Number.parseInt(runtime.version.slice(1), 10);
}

function describeInstallation(findings: Findings): string {
  const id = unquoteOsRelease(findings.get('distribution')?.[0]);
  const like = unquoteOsRelease(findings.get('distribution-like')?.[0]).split(' ');
  const isOf = (name: string): boolean => id === name || like.includes(name);
  if (isOf('debian') || isOf('ubuntu')) {
    return 'Install it there: `sudo apt-get install nodejs` where the release has 20 or newer, else from deb.nodesource.com.';
  }
  if (isOf('fedora') || isOf('rhel') || isOf('centos')) {
    return 'Install it there: `sudo dnf module install nodejs:20`, or `sudo dnf install nodejs`.';
  }
  if (isOf('alpine')) {
    return 'Install it there: `apk add nodejs`.';
  }
  if (isOf('suse') || isOf('opensuse')) {
    return 'Install it there: `sudo zypper install nodejs20`.';
  }
  if (isOf('arch')) {
    return 'Install it there: `sudo pacman -S nodejs-lts-iron`.';
  }
  return 'Install Node.js 20 or newer there, from the distribution or from nodejs.org.';
}
