import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './paths.mjs';
import { findCommand, isProgram, run } from './run.mjs';

/**
 * A Debian or Ubuntu package and how to tell that it is there: one of some commands, or a file for what brings none.
 * `names` are tried in order: the distributions call some by different names. `service` is what installing it starts, which nobody
 * asked for: tests start their own.
 * @typedef {{ names: readonly string[], commands?: readonly string[], file?: string, service?: string }} SystemPackage
 */

/** @type {readonly SystemPackage[]} */
const buildPackages = [
  { names: ['clang'], commands: ['clang'] },
  { names: ['llvm'], commands: ['llvm-strip'] },
  { names: ['libbpf-dev'], file: '/usr/include/bpf/bpf_helpers.h' },
  { names: ['libelf-dev'], file: '/usr/include/libelf.h' },
  { names: ['zlib1g-dev'], file: '/usr/include/zlib.h' },
  { names: ['bpftool', 'linux-tools-generic'], commands: ['bpftool'] },
];

/** @type {readonly SystemPackage[]} */
const testPackages = [
  { names: ['iptables'], commands: ['iptables'] },
  { names: ['nftables'], commands: ['nft'] },
  { names: ['ipset'], commands: ['ipset'] },
  { names: ['conntrack'], commands: ['conntrack'] },
  { names: ['iproute2'], commands: ['ip'] },
  { names: ['util-linux'], commands: ['setpriv'] },
  { names: ['procps'], commands: ['ps'] },
  { names: ['openssh-server'], commands: ['sshd'], service: 'ssh.service' },
  { names: ['openssh-client'], commands: ['ssh-keygen'] },
  { names: ['sudo'], commands: ['sudo'] },
  // Transparent proxies that take the place of the lab's own.
  { names: ['haproxy'], commands: ['haproxy'], service: 'haproxy.service' },
  { names: ['redsocks'], commands: ['redsocks'], service: 'redsocks.service' },
  // Login shells of other people, under which the agent starts as well.
  { names: ['fish'], commands: ['fish'] },
  { names: ['tcsh'], commands: ['tcsh'] },
  { names: ['zsh'], commands: ['zsh'] },
];

/** @type {readonly SystemPackage[]} */
const browserPackages = [{ names: ['chromium', 'chromium-browser'], commands: ['chromium', 'chromium-browser', 'google-chrome'] }];

/**
 * What compiles the two native modules of code-server.
 * @type {readonly SystemPackage[]}
 */
const codeServerPackages = [
  { names: ['g++'], commands: ['g++'] },
  { names: ['make'], commands: ['make'] },
  { names: ['python3'], commands: ['python3'] },
];

/**
 * Makes this machine ready: the npm packages of the lock file and, for what is asked, the Debian packages whose commands are
 * missing. Without root or passwordless sudo it prints the command to run and goes on.
 * @param {{ test?: boolean, codeServer?: boolean }} wanted `test`: also what only tests need; `codeServer`: also what its
 *   installation needs
 */
export async function setUp(wanted) {
  await installNpmPackages();
  await installSystemPackages([
    ...buildPackages,
    ...(wanted.test === true ? [...testPackages, ...browserPackages] : []),
    ...(wanted.codeServer === true ? codeServerPackages : []),
  ]);
  if (wanted.test === true) {
    await mountBpffs();
  }
}

async function installNpmPackages() {
  const reason = staleReason();
  if (reason === undefined) {
    return;
  }
  console.log(`Installing the npm packages of package-lock.json: ${reason}.`);
  const outcome = await run('npm', ['ci', '--ignore-scripts'], { show: true });
  if (outcome.code !== 0) {
    throw new Error('npm ci failed. Is the npm registry reachable (npm ping)?');
  }
}

/** Tells what of the lock file node_modules lacks, reading the list that npm keeps of what it installed. */
function staleReason() {
  const installedList = join(root, 'node_modules/.package-lock.json');
  if (!existsSync(installedList)) {
    return 'node_modules is missing';
  }
  const wanted = readPackages(join(root, 'package-lock.json'));
  const installed = readPackages(installedList);
  const differing = Object.entries(wanted).find(
    ([path, entry]) => path !== '' && entry.optional !== true && entry.peer !== true && installed[path]?.version !== entry.version,
  );
  return differing === undefined ? undefined : `${differing[0]} is not at version ${String(differing[1].version)}`;
}

/**
 * @param {string} path
 * @returns {Record<string, { version?: string, optional?: boolean, peer?: boolean }>}
 */
function readPackages(path) {
  return JSON.parse(readFileSync(path, 'utf8')).packages;
}

/** @param {readonly SystemPackage[]} packages */
async function installSystemPackages(packages) {
  const missing = packages.filter((entry) => !isThere(entry));
  if (missing.length === 0 || process.platform !== 'linux') {
    return;
  }
  if (findCommand('apt-get') === undefined) {
    console.log(`Missing: ${missing.map((entry) => entry.names[0]).join(', ')}. This is not Debian or Ubuntu: install them your system's way.`);
    return;
  }
  const rootPrefix = await rootCommand();
  if (rootPrefix === undefined) {
    const names = missing.map((entry) => entry.names[0]).join(' ');
    console.log(`Missing Debian packages. What needs them is skipped until you run:\n  sudo apt-get update && sudo apt-get install --no-install-recommends -y ${names}`);
    return;
  }
  console.log(`Installing Debian packages: ${missing.map((entry) => entry.names[0]).join(' ')}`);
  await asRoot(rootPrefix, ['apt-get', 'update', '-qq']);
  const names = [];
  for (const entry of missing) {
    names.push(await nameHere(entry));
  }
  const failed = await asRoot(rootPrefix, ['apt-get', 'install', '-y', '-qq', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120', ...names]);
  if (failed) {
    console.log('apt-get failed; what needs these packages is skipped.');
  } else {
    await keepServicesOff(rootPrefix, missing.flatMap(({ service }) => service ?? []));
  }
}

/**
 * @param {readonly string[]} rootPrefix
 * @param {readonly string[]} services
 */
async function keepServicesOff(rootPrefix, services) {
  if (!existsSync('/run/systemd/system')) {
    return;
  }
  for (const service of services) {
    await asRoot(rootPrefix, ['systemctl', 'disable', '--now', service, ...(service === 'ssh.service' ? ['ssh.socket'] : [])]);
  }
}

/** @param {SystemPackage} entry */
function isThere(entry) {
  return entry.commands === undefined ? existsSync(entry.file ?? '') : entry.commands.some((command) => findCommand(command) !== undefined);
}

/**
 * Gives the first of a package's names that this distribution can install.
 * @param {SystemPackage} entry
 */
async function nameHere(entry) {
  for (const name of entry.names) {
    const policy = await run('apt-cache', ['policy', name]);
    if (/Candidate: (?!\(none\))/.test(policy.stdout)) {
      return name;
    }
  }
  return entry.names[0] ?? '';
}

/**
 * Gives what to put before a command so that it runs as root without asking: nothing as root, `sudo -n` where that works.
 * @returns {Promise<string[] | undefined>} undefined where neither is possible
 */
async function rootCommand() {
  if (process.getuid?.() === 0) {
    return [];
  }
  return (await run('sudo', ['-n', 'true'])).code === 0 ? ['sudo', '-n'] : undefined;
}

/**
 * Runs a command as root, its output shown; true if it failed.
 * @param {readonly string[]} prefix
 * @param {readonly string[]} command
 */
async function asRoot(prefix, command) {
  const [program = '', ...parameters] = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', ...command];
  return (await run(program, parameters, { show: true })).code !== 0;
}

/** Containers often come without bpffs; pins need it. */
async function mountBpffs() {
  if (process.platform !== 'linux' || process.getuid?.() !== 0 || / - bpf /.test(readFileSync('/proc/self/mountinfo', 'utf8'))) {
    return;
  }
  const outcome = await run('mount', ['-t', 'bpf', 'bpf', '/sys/fs/bpf']);
  if (outcome.code !== 0) {
    console.log(`bpffs could not be mounted at /sys/fs/bpf: ${outcome.stderr.trim()}`);
  }
}

if (isProgram(import.meta.url)) {
  await setUp({ test: process.argv.includes('--test'), codeServer: process.argv.includes('--code-server') });
}
