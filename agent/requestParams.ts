import type { ConnectionScope } from './protocol/connections.ts';
import { inputError } from './protocol/errors.ts';
import type { MeshpathError } from './protocol/errors.ts';
import { parseIpAddress } from './protocol/ipAddress.ts';
import { LAB_PATHS, LAB_RUN_LIMITS, LAB_SIDECARS } from './protocol/lab.ts';
import { MAX_PAGE_ENTRIES } from './protocol/mapEntries.ts';
import type { MethodName, Params } from './protocol/methods.ts';
import type { CgroupPath, IpAddress, MapId } from './protocol/scalars.ts';

const MAX_TEXT = 4_096;
const MAX_CURSOR = 32_768;
const MAX_PODS = 1_000;
const MAX_ADDRESSES = 64;
const MAX_CHECK_IDS = 100;
const MAX_ID = 0xffff_ffff;
const MAX_RULES = 256 * 1024;
const MAX_COMMAND_WORDS = 64;

type Parsers = { readonly [M in MethodName]: (value: unknown) => Params<M> };

/**
 * Reads the parameters of a request. They come from another program: what is not of the form that the protocol says is
 * refused with INPUT_INVALID, naming the part.
 */
export function parseParams<M extends MethodName>(method: M, value: unknown): Params<M> {
  return parsers[method](value);
}

const nothing = (value: unknown): Record<string, never> => {
  if (value !== undefined && value !== null) {
    readObject(value, 'params');
  }
  return {};
};

const parsers: Parsers = {
  initialize: (value) => {
    const { protocolVersion, client } = readObject(value, 'params');
    return { protocolVersion: readInteger(protocolVersion, 'protocolVersion', 0, MAX_ID), client: readText(client, 'client', 200) };
  },
  listPrograms: nothing,
  listMaps: nothing,
  listLinks: nothing,
  listCgroups: (value) => ({ below: readCgroup(readObject(value, 'params')['below'], 'below') }),
  listPods: nothing,
  readMap: (value) => {
    const { mapId, cursor, limit } = readObject(value, 'params');
    return {
      mapId: readInteger(mapId, 'mapId', 1, MAX_ID) as MapId,
      cursor: cursor === null ? null : readText(cursor, 'cursor', MAX_CURSOR),
      limit: readInteger(limit, 'limit', 1, MAX_PAGE_ENTRIES),
    };
  },
  takeSnapshot: nothing,
  runDoctor: nothing,
  checkAcceleration: nothing,
  turnAccelerationOn: (value) => {
    const { profile, pods, overrides, keep, acceptedLimits, overriddenFindings } = readObject(value, 'params');
    return {
      profile: readText(profile, 'profile', 100),
      // Whoever turns it on reads each part.
      ...(overrides === undefined ? {} : { overrides: readObject(overrides, 'overrides') }),
      ...(keep === undefined ? {} : { keep: readBoolean(keep, 'keep') }),
      ...(acceptedLimits === undefined ? {} : { acceptedLimits: readCheckIds(acceptedLimits, 'acceptedLimits') }),
      ...(overriddenFindings === undefined ? {} : { overriddenFindings: readCheckIds(overriddenFindings, 'overriddenFindings') }),
      pods: readArray(pods, 'pods', MAX_PODS).map((pod, index) => {
        const { cgroup, addresses } = readObject(pod, `pods[${index}]`);
        return {
          cgroup: readCgroup(cgroup, `pods[${index}].cgroup`),
          addresses: readArray(addresses, `pods[${index}].addresses`, MAX_ADDRESSES).map((address) =>
            readAddress(address, `pods[${index}].addresses`),
          ),
        };
      }),
    };
  },
  turnAccelerationOff: (value) => {
    const { cgroups } = readObject(value, 'params');
    return { cgroups: cgroups === null ? null : readArray(cgroups, 'cgroups', MAX_PODS).map((cgroup) => readCgroup(cgroup, 'cgroups')) };
  },
  upgradeAcceleration: (value) => ({ profile: readText(readObject(value, 'params')['profile'], 'profile', 100) }),
  cleanNode: (value) => ({ isDryRun: readBoolean(readObject(value, 'params')['isDryRun'], 'isDryRun') }),
  listAccelerations: nothing,
  listConnections: (value) => ({ scope: readScope(readObject(value, 'params')['scope']) }),
  bringLabUp: (value) => {
    const { name, pods, profile, path, rules, sidecar } = readObject(value, 'params');
    return {
      name: readText(name, 'name', 100),
      pods: readInteger(pods, 'pods', 0, MAX_PODS),
      profile: readText(profile, 'profile', 100),
      path: readOneOf(path, 'path', LAB_PATHS),
      rules: rules === null ? null : readText(rules, 'rules', MAX_RULES),
      sidecar:
        typeof sidecar === 'string'
          ? readOneOf(sidecar, 'sidecar', LAB_SIDECARS)
          : { command: readArray(readObject(sidecar, 'sidecar')['command'], 'sidecar.command', MAX_COMMAND_WORDS).map((word) => readText(word, 'sidecar.command', MAX_TEXT)) },
    };
  },
  listLabs: nothing,
  runInLab: (value) => {
    const { name, from, to, connections, bytes, parallel } = readObject(value, 'params');
    return {
      name: readText(name, 'name', 100),
      from: readText(from, 'from', 100),
      to: readText(to, 'to', 100),
      connections: readInteger(connections, 'connections', 1, LAB_RUN_LIMITS.connections),
      bytes: readInteger(bytes, 'bytes', 1, LAB_RUN_LIMITS.bytes),
      parallel: readInteger(parallel, 'parallel', 1, LAB_RUN_LIMITS.parallel),
    };
  },
  takeLabDown: (value) => ({ name: readText(readObject(value, 'params')['name'], 'name', 100) }),
  countDecisions: (value) => ({ profile: readText(readObject(value, 'params')['profile'], 'profile', 100) }),
};

function wrong(part: string, wanted: string, found: unknown): MeshpathError {
  const shown = found === undefined ? 'nothing' : (JSON.stringify(found) as string | undefined ?? typeof found).slice(0, 80);
  return inputError('The request is not one that this agent understands.', `'${part}' must be ${wanted}, and is ${shown}.`, 'Use the same version of Meshpath on both sides.');
}

function readObject(value: unknown, part: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw wrong(part, 'an object', value);
  }
  return value as Readonly<Record<string, unknown>>;
}

function readArray(value: unknown, part: string, most: number): readonly unknown[] {
  if (!Array.isArray(value) || value.length > most) {
    throw wrong(part, `a list of at most ${most}`, Array.isArray(value) ? value.length : value);
  }
  return value as readonly unknown[];
}

function readInteger(value: unknown, part: string, least: number, most: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) {
    throw wrong(part, `a whole number from ${least} to ${most}`, value);
  }
  return value;
}

function readText(value: unknown, part: string, most: number): string {
  if (typeof value !== 'string' || value.length > most) {
    throw wrong(part, `text of at most ${most} characters`, value);
  }
  return value;
}

function readBoolean(value: unknown, part: string): boolean {
  if (typeof value !== 'boolean') {
    throw wrong(part, 'true or false', value);
  }
  return value;
}

function readCheckIds(value: unknown, part: string): readonly string[] {
  return readArray(value, part, MAX_CHECK_IDS).map((id) => readText(id, part, 60));
}

function readScope(value: unknown): ConnectionScope {
  if (value !== 'all' && value !== 'accelerated-pods') {
    throw wrong('scope', "'accelerated-pods' or 'all'", value);
  }
  return value;
}

function readOneOf<Choice extends string>(value: unknown, part: string, choices: readonly Choice[]): Choice {
  const choice = choices.find((candidate) => candidate === value);
  if (choice === undefined) {
    throw wrong(part, `one of ${choices.join(', ')}`, value);
  }
  return choice;
}

function readCgroup(value: unknown, part: string): CgroupPath {
  const path = readText(value, part, MAX_TEXT);
  const folders = path.split('/').slice(1);
  if (path !== '/' && (!path.startsWith('/') || path.includes('\0') || folders.some((folder) => folder === '' || folder === '.' || folder === '..'))) {
    throw wrong(part, 'a cgroup path like /kubepods/pod1', value);
  }
  return path as CgroupPath;
}

function readAddress(value: unknown, part: string): IpAddress {
  const address = parseIpAddress(readText(value, part, 64));
  if (address === undefined) {
    throw wrong(part, 'a list of IP addresses', value);
  }
  return address;
}
