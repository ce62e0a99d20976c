import { readdirSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';

import type { NamespaceId } from '../protocol/scalars.ts';
import type { Omission } from '../protocol/snapshot.ts';
import type { ScannedProcess } from './processScan.ts';
import { parseNamespaceLink } from './processScan.ts';

/** A network namespace and a file by which it can be entered. */
export interface NamespaceHandle {
  readonly id: NamespaceId;
  /** Names under /run/netns; `host` first for the host's. */
  readonly names: readonly string[];
  readonly path: string;
  /** Whether it is the namespace that this process is in. */
  readonly own: boolean;
}

export const HOST_NAME = 'host';
const NAMED_FOLDER = '/run/netns';
const MAX_NAMESPACES = 512;

/**
 * Gives every network namespace that has a process or a name under /run/netns, each once. The host's is that of PID 1, or this
 * process's own where PID 1 may not be looked into.
 */
export function listNamespaces(processes: readonly ScannedProcess[]): { readonly namespaces: readonly NamespaceHandle[]; readonly omissions: readonly Omission[] } {
  const own = parseNamespaceLink(readlinkSync('/proc/self/ns/net'));
  const host = processes.find(({ pid }) => pid === 1)?.namespace ?? own;
  const found = new Map<NamespaceId, { names: string[]; path: string }>();
  for (const { pid, namespace } of processes) {
    if (!found.has(namespace)) {
      found.set(namespace, { names: namespace === host ? [HOST_NAME] : [], path: `/proc/${pid}/ns/net` });
    }
  }
  for (const name of namedNamespaces()) {
    const path = join(NAMED_FOLDER, name);
    const id = namespaceOf(path);
    if (id === undefined) {
      continue;
    }
    // A name outlives processes: it is the better way in.
    found.set(id, { names: [...(found.get(id)?.names ?? []), name], path });
  }
  const all = [...found].map(([id, { names, path }]) => ({ id, names, path, own: id === own }));
  const omissions =
    all.length > MAX_NAMESPACES
      ? [
          {
            what: `${all.length - MAX_NAMESPACES} network namespaces`,
            reason: `There are ${all.length} network namespaces, and Meshpath reads ${MAX_NAMESPACES}.`,
            remedy: 'Remove namespaces that are not used any more (`ip netns list`).',
          },
        ]
      : [];
  return { namespaces: all.slice(0, MAX_NAMESPACES), omissions };
}

function namedNamespaces(): string[] {
  try {
    return readdirSync(NAMED_FOLDER).sort();
  } catch {
    // No namespace was ever named.
    return [];
  }
}

/** A name whose namespace is gone is an ordinary, empty file: its device is that of the folder. */
function namespaceOf(path: string): NamespaceId | undefined {
  try {
    const file = statSync(path, { bigint: true });
    const folder = statSync(NAMED_FOLDER, { bigint: true });
    return file.dev === folder.dev ? undefined : (file.ino.toString() as NamespaceId);
  } catch {
    return undefined;
  }
}
