import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findCommand, run } from './run.mjs';

/**
 * What of ours is on the machine: names of network namespaces, cgroups, pins and loaded BPF programs.
 * @typedef {{ kind: string, name: string }[]} Inventory
 */

/** Lists what of the kernel bears our names. @returns {Promise<Inventory>} */
export async function takeInventory() {
  return [
    ...listFolder('/run/netns').map((name) => ({ kind: 'network namespace', name })),
    ...listOurs(cgroupMount()).map((name) => ({ kind: 'cgroup', name })),
    ...listOurs('/sys/fs/bpf').map((name) => ({ kind: 'pin', name })),
    ...(await listPrograms()),
  ];
}

/**
 * Tells what a test run left: what was not there before it, and the processes that inherited the run's name. Ends those processes,
 * so that the next run starts clean.
 * @param {Inventory} before
 * @param {string} runName the value of MESHPATH_TEST_RUN
 * @returns {Promise<string[]>} one line each
 */
export async function findLeftovers(before, runName) {
  const processes = await settledProcesses(runName);
  const known = new Set(before.map(({ kind, name }) => `${kind} ${name}`));
  const after = (await takeInventory())
    .filter(({ name }) => !belongsToAnotherRun(name, runName))
    .map(({ kind, name }) => `${kind} ${name}`)
    .filter((line) => !known.has(line));
  for (const { id } of processes) {
    try {
      process.kill(id, 'SIGKILL');
    } catch {
      // It ended by itself meanwhile.
    }
  }
  return [...after, ...processes.map(({ id, command }) => `process ${String(id)} ${command}`)];
}

/**
 * Tests put the id of their process into the names that they make: where that process still runs and is none of this run, another
 * run at the same time owns the thing.
 * @param {string} name
 * @param {string} runName
 */
function belongsToAnotherRun(name, runName) {
  const owner = /meshpath[a-z-]*-(\d+)-/.exec(name)?.[1];
  return owner !== undefined && existsSync(`/proc/${owner}`) && !read(`/proc/${owner}/environ`).split('\0').includes(`MESHPATH_TEST_RUN=${runName}`);
}

/**
 * Processes are given a moment to end: a server's children outlive it for a little.
 * @param {string} runName
 */
async function settledProcesses(runName) {
  for (let turn = 0; turn < 30 && listProcesses(runName).length > 0; turn++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return listProcesses(runName);
}

/** @param {string} runName */
function listProcesses(runName) {
  return listFolder('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((id) => ({ id: Number(id), environment: read(`/proc/${id}/environ`), command: read(`/proc/${id}/cmdline`).replaceAll('\0', ' ').slice(0, 200) }))
    .filter(({ environment }) => environment.split('\0').includes(`MESHPATH_TEST_RUN=${runName}`));
}

async function listPrograms() {
  const bpftool = findCommand('bpftool');
  if (bpftool === undefined || process.getuid?.() !== 0) {
    return [];
  }
  const shown = await run(bpftool, ['-j', 'prog', 'show']);
  /** @type {{ id: number, name?: string }[]} */
  const programs = shown.code === 0 ? JSON.parse(shown.stdout) : [];
  return programs
    .filter(({ name }) => name?.startsWith('meshpath') === true)
    .map(({ id, name }) => ({ kind: 'BPF program', name: `${String(id)} ${name ?? ''}` }));
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
  return existsSync(folder) ? readdirSync(folder) : [];
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
