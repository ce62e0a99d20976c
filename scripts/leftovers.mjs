import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findCommand, run } from './run.mjs';

/**
 * What of ours is on the machine: names of network namespaces, cgroups, pins and loaded BPF programs.
 * @typedef {{ kind: string, name: string }[]} Inventory
 */

/**
 * A test run: `name` is the value of MESHPATH_TEST_RUN that its processes inherit, `processIds` are those of its test files.
 * @typedef {{ name: string, processIds: ReadonlySet<string> }} TestRun
 */

/** How long the kernel and processes that are ending get until what they hold counts as left, in milliseconds. */
const grace = 5_000;

/** Lists what of the kernel bears our names. @returns {Promise<Inventory>} */
export async function takeInventory() {
  return [
    ...listFolder('/run/netns').map((name) => ({ kind: 'network namespace', name })),
    ...listOurs(cgroupMount()).map((name) => ({ kind: 'cgroup', name })),
    ...listOurs('/sys/fs/bpf').map((name) => ({ kind: 'pin', name })),
    ...(await listPrograms()).map(({ id, name }) => ({ kind: 'BPF program', name: `${String(id)} ${name}` })),
  ];
}

/**
 * Tells what a test run left: what was not there before it, and the processes that inherited the run's name. Ends those processes,
 * so that the next run starts clean. What belongs to another run at the same time is none of it.
 * @param {Inventory} before
 * @param {TestRun} testRun
 * @returns {Promise<string[]>} one line each
 */
export async function findLeftovers(before, testRun) {
  const deadline = performance.now() + grace;
  let leftovers = await lookForLeftovers(before, testRun);
  while (leftovers.things.length + leftovers.processes.length > 0 && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    leftovers = await lookForLeftovers(before, testRun);
  }
  for (const { id } of leftovers.processes) {
    try {
      process.kill(id, 'SIGKILL');
    } catch {
      // It ended by itself meanwhile.
    }
  }
  return [...leftovers.things, ...leftovers.processes.map(({ id, command }) => `process ${String(id)} ${command}`)];
}

/**
 * @param {Inventory} before
 * @param {TestRun} testRun
 */
async function lookForLeftovers(before, testRun) {
  const known = new Set(before.map(({ kind, name }) => `${kind} ${name}`));
  const added = (await takeInventory()).filter(({ kind, name }) => !known.has(`${kind} ${name}`));
  const holders = added.some(({ kind }) => kind === 'BPF program') ? findProgramHolders() : new Map();
  const things = added.filter(({ kind, name }) =>
    kind === 'BPF program' ? !isHeldByAnotherRun(holders.get(Number.parseInt(name, 10)) ?? [], testRun.name) : !isNamedByAnotherRun(name, testRun),
  );
  return { things: things.map(({ kind, name }) => `${kind} ${name}`), processes: listProcesses(testRun.name) };
}

/**
 * Tests put the id of their process into the names that they make.
 * @param {string} name
 * @param {TestRun} testRun
 */
function isNamedByAnotherRun(name, testRun) {
  const owner = /meshpath[a-z-]*-(\d+)-/.exec(name)?.[1];
  return owner !== undefined && !testRun.processIds.has(owner) && !isOfRun(owner, testRun.name);
}

/**
 * Programs bear no run's name. Another run owns what only processes hold that are neither of this run nor orphans, as what a run
 * leaves is.
 * @param {readonly string[]} holders process ids
 * @param {string} runName
 */
function isHeldByAnotherRun(holders, runName) {
  return holders.length > 0 && holders.every((id) => !isOfRun(id, runName) && parentOf(id) !== '1');
}

/**
 * Gives the processes that hold each BPF program, itself or a link of it, by program id: fdinfo says it (proc_pid_fdinfo(5)).
 * Debian's bpftool does not know them.
 */
export function findProgramHolders() {
  /** @type {Map<number, string[]>} */
  const holders = new Map();
  for (const id of listProcessIds()) {
    for (const descriptor of listFolder(`/proc/${id}/fd`)) {
      const program = /^prog_id:\s*(\d+)$/m.exec(read(`/proc/${id}/fdinfo/${descriptor}`))?.[1];
      if (program !== undefined) {
        holders.set(Number(program), [...(holders.get(Number(program)) ?? []), id]);
      }
    }
  }
  return holders;
}

/** @param {string} runName */
function listProcesses(runName) {
  return listProcessIds()
    .filter((id) => Number(id) !== process.pid && isOfRun(id, runName))
    .map((id) => ({ id: Number(id), command: read(`/proc/${id}/cmdline`).replaceAll('\0', ' ').slice(0, 200) }));
}

function listProcessIds() {
  return listFolder('/proc').filter((name) => /^\d+$/.test(name));
}

/**
 * @param {string} id of a process
 * @param {string} runName
 */
function isOfRun(id, runName) {
  return read(`/proc/${id}/environ`).split('\0').includes(`MESHPATH_TEST_RUN=${runName}`);
}

/** @param {string} id of a process */
function parentOf(id) {
  return /^PPid:\s*(\d+)$/m.exec(read(`/proc/${id}/status`))?.[1];
}

/** @returns {Promise<{ id: number, name: string }[]>} */
async function listPrograms() {
  const bpftool = findCommand('bpftool');
  if (bpftool === undefined || process.getuid?.() !== 0) {
    return [];
  }
  const shown = await run(bpftool, ['-j', 'prog', 'show']);
  /** @type {{ id: number, name?: string }[]} */
  const programs = shown.code === 0 ? JSON.parse(shown.stdout) : [];
  return programs.flatMap(({ id, name }) => (name?.startsWith('meshpath') === true ? [{ id, name }] : []));
}

/** Gives where cgroup2 is mounted, read from mountinfo (proc_pid_mountinfo(5)). */
function cgroupMount() {
  const line = read('/proc/self/mountinfo')
    .split('\n')
    .find((text) => text.includes(' - cgroup2 '));
  return line?.split(' ')[4] ?? '/sys/fs/cgroup';
}

/**
 * Lists the entries with our name in a folder and the folders below it.
 * @param {string} folder
 */
function listOurs(folder) {
  if (!existsSync(folder)) {
    return [];
  }
  try {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.name.includes('meshpath') && (entry.isDirectory() || folder === '/sys/fs/bpf'))
      .map((entry) => join(entry.parentPath, entry.name));
  } catch {
    // Folders come and go, or are not ours to read.
    return [];
  }
}

/** @param {string} folder */
function listFolder(folder) {
  try {
    return readdirSync(folder);
  } catch {
    // It is not there, the process ended, or it belongs to another user.
    return [];
  }
}

/** @param {string} path */
function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // The process ended, or belongs to another user.
    return '';
  }
}
