import { closeSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { cancelledError } from '../protocol/errors.ts';
import type { ObjectOwner, ProcessReference } from '../protocol/kernelObjects.ts';
import type { Introspection } from '../libbpf/introspection.ts';
import { parseBpfFdinfo } from './fdinfo.ts';
import { parseMountinfo } from './mountinfo.ts';
import type { OwnObjects } from './ownObjects.ts';

/** Who holds the BPF objects of this machine, as far as this process may see it. */
export interface ObjectOwners {
  readonly ofProgram: (id: number) => ObjectOwner;
  readonly ofMap: (id: number) => ObjectOwner;
  /** The owner of a link, by its id and that of its program. */
  readonly ofLink: (id: number, programId: number) => ObjectOwner;
}

const MAX_PROCESSES = 65_536;
const MAX_PINS = 20_000;
const MAX_PIN_DEPTH = 16;
/** How long the scan may run before it lets other work have its turn. */
const TURN_MILLISECONDS = 8;

/**
 * Finds the holders of all BPF objects: processes by their descriptors (/proc/PID/fd and fdinfo), pins by walking over
 * every bpffs mount. `own` are the objects that Meshpath loaded. Processes that end meanwhile, or that may not be looked into, are left out.
 */
export async function findObjectOwners(introspection: Introspection, own: OwnObjects, signal: AbortSignal): Promise<ObjectOwners> {
  const processes = await findHolders(signal);
  const pins = findPins(introspection);
  const ownerOf = (key: string, isOwn: boolean): ObjectOwner => {
    const holders = processes.get(key) ?? [];
    const paths = pins.get(key) ?? [];
    return { kind: isOwn ? 'meshpath' : holders.length > 0 ? 'process' : paths.length > 0 ? 'pinned' : 'kernel', processes: holders, pins: paths };
  };
  return {
    ofProgram: (id) => ownerOf(`program ${id}`, own.programIds.has(id)),
    ofMap: (id) => ownerOf(`map ${id}`, own.mapIds.has(id)),
    ofLink: (id, programId) => ownerOf(`link ${id}`, own.programIds.has(programId)),
  };
}

async function findHolders(signal: AbortSignal): Promise<Map<string, ProcessReference[]>> {
  const holders = new Map<string, ProcessReference[]>();
  let turn = performance.now();
  for (const entry of readdirSync('/proc').filter((name) => /^\d+$/.test(name)).slice(0, MAX_PROCESSES)) {
    if (performance.now() - turn > TURN_MILLISECONDS) {
      await nextTurn();
      turn = performance.now();
    }
    if (signal.aborted) {
      throw cancelledError('Looking for the owners of BPF objects');
    }
    const held = bpfObjectsOf(entry);
    if (held.size > 0) {
      const reference = { pid: Number(entry), command: readText(`/proc/${entry}/comm`)?.trimEnd() ?? '' };
      for (const key of held) {
        const known = holders.get(key);
        if (known === undefined) {
          holders.set(key, [reference]);
        } else {
          known.push(reference);
        }
      }
    }
  }
  return holders;
}

function bpfObjectsOf(pid: string): ReadonlySet<string> {
  const held = new Set<string>();
  let descriptors: string[];
  try {
    descriptors = readdirSync(`/proc/${pid}/fd`);
  } catch {
    // It ended, or it is not ours to look into.
    return held;
  }
  for (const descriptor of descriptors) {
    if (readLink(`/proc/${pid}/fd/${descriptor}`)?.startsWith('anon_inode:bpf') !== true) {
      continue;
    }
    const info = parseBpfFdinfo(readText(`/proc/${pid}/fdinfo/${descriptor}`) ?? '');
    if (info !== undefined) {
      held.add(`${info.kind} ${info.id}`);
    }
  }
  return held;
}

/** Gives the pins below every bpffs mount, by kind and id. */
function findPins(introspection: Introspection): Map<string, string[]> {
  const pins = new Map<string, string[]>();
  let left = MAX_PINS;
  const walk = (folder: string, depth: number): void => {
    for (const entry of readFolder(folder)) {
      left -= 1;
      if (left < 0) {
        return;
      }
      const path = join(folder, entry.name);
      if (entry.isDirectory()) {
        if (depth < MAX_PIN_DEPTH) {
          walk(path, depth + 1);
        }
        continue;
      }
      const fd = entry.isFile() ? introspection.openPin(path) : undefined;
      if (fd === undefined) {
        continue;
      }
      const info = parseBpfFdinfo(readText(`/proc/self/fdinfo/${fd}`) ?? '');
      closeSync(fd);
      if (info !== undefined) {
        const key = `${info.kind} ${info.id}`;
        pins.set(key, [...(pins.get(key) ?? []), path]);
      }
    }
  };
  const mountPoints = parseMountinfo(readText('/proc/self/mountinfo') ?? '').filter(({ filesystem }) => filesystem === 'bpf');
  for (const { mountPoint } of mountPoints) {
    walk(mountPoint, 0);
  }
  return pins;
}

function readFolder(path: string): readonly { name: string; isDirectory: () => boolean; isFile: () => boolean }[] {
  try {
    return readdirSync(path, { withFileTypes: true });
  } catch {
    return [];
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
