import { DECISION_HOOKS, DECISION_REASONS } from './acceleration.ts';
import type { DecisionEvent, DecisionReason, MeshProfile } from './acceleration.ts';
import { resolveType, sizeOfType } from './btf.ts';
import type { Btf } from './btf.ts';
import { MeshpathError } from './errors.ts';
import { formatIpAddress, mappedAddressBytes, toIpAddress } from './ipAddress.ts';
import { toPortNumber, toUint64Text } from './scalars.ts';
import type { Endpoint, IpAddress } from './scalars.ts';

/**
 * The structures of bpf/meshpath.h, read and written by the BTF of the object itself, so that no second description of
 * their layout exists. The agent uses it for the kernel's maps, the simulator for those of its own.
 */

/** What is set in `.rodata` before the programs are loaded. */
export interface DatapathSettings {
  readonly profile: MeshProfile;
  /** Bytes redirected one way without an answer; 0: no limit. */
  readonly unreadLimit: bigint;
  readonly connectionLimit: bigint;
  /** Whether sockops programs may call bpf_get_netns_cookie (Linux 5.15). */
  readonly hasNetnsCookie: boolean;
}

/** The names of the object's programs. */
export const DATAPATH_PROGRAMS = {
  connect: 'meshpath_connect4',
  sockops: 'meshpath_sockops',
  message: 'meshpath_sk_msg',
  getsockopt: 'meshpath_getsockopt',
  getpeername: 'meshpath_getpeername4',
} as const;

const MAX_EXCLUDED_PORTS = 16;
const UID_UNKNOWN = 0xffff_ffff;
/** What events say where an address is not known. */
const NO_ADDRESS = toIpAddress('0.0.0.0');
/** The counter after those of all reasons: events that the ring buffer had no room for. */
export const EVENTS_LOST_COUNTER = DECISION_REASONS.length;

type FieldValue = bigint | Uint8Array | readonly bigint[];

/**
 * Gives `.rodata` with the settings in its variable `profile`. `initial` is the section as the object has it.
 * Throws PROFILE_INVALID where the profile has more excluded ports than the programs take, BPF_OBJECT_INVALID where the object is another.
 */
export function encodeSettings(btf: Btf, initial: Uint8Array, settings: DatapathSettings): Uint8Array {
  const { profile } = settings;
  for (const ports of [profile.excludedInboundPorts, profile.excludedOutboundPorts]) {
    if (ports.length > MAX_EXCLUDED_PORTS) {
      throw new MeshpathError({
        code: 'PROFILE_INVALID',
        message: `The mesh profile ${profile.name} cannot be used.`,
        reason: `It excludes ${ports.length} ports in one direction; the programs take ${MAX_EXCLUDED_PORTS}.`,
        remedy: 'Exclude fewer ports, or leave the pod to iptables.',
      });
    }
  }
  const variable = findSectionVariable(btf, '.rodata', 'profile');
  const bytes = new Uint8Array(initial);
  writeFields(btf, variable.type, bytes, variable.offset, {
    unread_limit: settings.unreadLimit,
    connection_limit: settings.connectionLimit,
    passthrough_source: profile.passthroughSource === null ? new Uint8Array(16) : mappedAddressBytes(profile.passthroughSource),
    proxy_uid: BigInt(profile.proxyUid),
    proxy_gid: BigInt(profile.proxyGid),
    outbound_port: BigInt(profile.outboundPort),
    inbound_port: BigInt(profile.inboundPort),
    excluded_inbound_ports: profile.excludedInboundPorts.map(BigInt),
    excluded_outbound_ports: profile.excludedOutboundPorts.map(BigInt),
    has_netns_cookie: settings.hasNetnsCookie ? 1n : 0n,
  });
  return bytes;
}

/** Gives a value of the map `pods`. `source` is the pod's first IPv4 address. */
export function encodePod(btf: Btf, cgroupId: bigint, source: IpAddress): Uint8Array {
  return encodeStruct(btf, 'pod', { cgroup_id: cgroupId, source: mappedAddressBytes(source) });
}

/** Gives a value of the map `pod_addresses`. */
export function encodePodOwner(btf: Btf, cgroupId: bigint): Uint8Array {
  return encodeStruct(btf, 'pod_owner', { cgroup_id: cgroupId });
}

/** Gives the value of the map `control` with the switch in this position; `current` is the value that it has. */
export function encodeSwitch(btf: Btf, current: Uint8Array, switchedOff: boolean): Uint8Array {
  const bytes = new Uint8Array(current);
  writeFields(btf, findStruct(btf, 'control'), bytes, 0, { switched_off: switchedOff ? 1n : 0n });
  return bytes;
}

/** What is of use of a value of the map `connections`. */
export interface ConnectionState {
  /** Ids of the cgroups of the pods at both ends; 0n: not known. */
  readonly connectingCgroupId: bigint;
  readonly acceptingCgroupId: bigint;
  /** Whether both sockets are in the sockhash and their messages are redirected. */
  readonly isAccelerated: boolean;
}

/** Reads a value of the map `connections`. */
export function decodeConnection(btf: Btf, bytes: Uint8Array): ConnectionState {
  const fields = readFields(btf, findStruct(btf, 'connection'), bytes);
  const isSet = (name: string): boolean => fields(name).unsigned() !== 0n;
  return {
    connectingCgroupId: fields('connecting_cgroup_id').unsigned(),
    acceptingCgroupId: fields('accepting_cgroup_id').unsigned(),
    isAccelerated: isSet('is_connecting_enrolled') && isSet('is_accepting_enrolled') && !isSet('is_switched_off'),
  };
}

/** Gives a value of the map `connections` as it was, with its messages no longer redirected. */
export function encodeConnectionSwitchedOff(btf: Btf, current: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(current);
  writeFields(btf, findStruct(btf, 'connection'), bytes, 0, { is_switched_off: 1n });
  return bytes;
}

/** Reads a record of the ring buffer. Gives undefined for a record of a hook or reason that this version does not know. */
export function decodeDecisionEvent(btf: Btf, bytes: Uint8Array): DecisionEvent | undefined {
  const fields = readFields(btf, findStruct(btf, 'decision_event'), bytes);
  const number = (name: string): number => Number(fields(name).unsigned());
  const hook = DECISION_HOOKS[number('hook')];
  const reason = DECISION_REASONS[number('reason')];
  if (hook === undefined || reason === undefined) {
    return undefined;
  }
  const endpoint = (name: string): Endpoint => {
    const inner = readFields(btf, findStruct(btf, 'endpoint'), fields(name).bytes);
    const address = inner('address').bytes;
    return { address: address.every((byte) => byte === 0) ? NO_ADDRESS : formatIpAddress(address), port: toPortNumber(Number(inner('port').networkOrder())) };
  };
  const hasOriginal = fields('original').bytes.some((byte) => byte !== 0);
  return {
    bootNanoseconds: toUint64Text(fields('boot_nanoseconds').unsigned()),
    hook,
    reason,
    errno: number('error'),
    socketCookie: toUint64Text(fields('socket_cookie').unsigned()),
    cgroupId: toUint64Text(fields('cgroup_id').unsigned()),
    netnsCookie: toUint64Text(fields('netns_cookie').unsigned()),
    uid: number('uid') === UID_UNKNOWN ? null : number('uid'),
    local: endpoint('local'),
    remote: endpoint('remote'),
    original: hasOriginal ? endpoint('original') : null,
    bytes: number('bytes'),
  };
}

/** Gives the counter of each reason from the map `counters`: for each index one little-endian number for each CPU, which are summed. */
export function sumCounters(values: readonly (readonly Uint8Array[])[]): Record<DecisionReason, bigint> & { readonly lost: bigint } {
  const sum = (index: number): bigint => (values[index] ?? []).reduce((total, bytes) => total + new Field(bytes).unsigned(), 0n);
  const counters = Object.fromEntries(DECISION_REASONS.map((reason, index) => [reason, sum(index)])) as Record<DecisionReason, bigint>;
  return { ...counters, lost: sum(EVENTS_LOST_COUNTER) };
}

/** The bytes of one field. */
class Field {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  unsigned(): bigint {
    return this.bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
  }

  networkOrder(): bigint {
    return this.bytes.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);
  }
}

function encodeStruct(btf: Btf, name: string, fields: Readonly<Record<string, FieldValue>>): Uint8Array {
  const id = findStruct(btf, name);
  const bytes = new Uint8Array(sizeOfType(btf, id) ?? 0);
  writeFields(btf, id, bytes, 0, fields);
  return bytes;
}

function writeFields(btf: Btf, typeId: number, bytes: Uint8Array, start: number, fields: Readonly<Record<string, FieldValue>>): void {
  for (const [name, value] of Object.entries(fields)) {
    const { offset, size, element } = findMember(btf, typeId, name);
    const target = bytes.subarray(start + offset, start + offset + size);
    if (target.length !== size || (value instanceof Uint8Array && value.length !== size)) {
      throw otherObject(`its field ${name} has ${size} bytes, which do not fit`);
    }
    if (value instanceof Uint8Array) {
      target.set(value);
    } else if (typeof value === 'bigint') {
      writeUnsigned(target, value);
    } else {
      target.fill(0);
      value.forEach((part, index) => {
        writeUnsigned(target.subarray(index * element, (index + 1) * element), part);
      });
    }
  }
}

function writeUnsigned(target: Uint8Array, value: bigint): void {
  let rest = value;
  for (let index = 0; index < target.length; index += 1) {
    target[index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

function readFields(btf: Btf, typeId: number, bytes: Uint8Array): (name: string) => Field {
  const size = sizeOfType(btf, typeId) ?? 0;
  if (bytes.length < size) {
    throw otherObject(`a record has ${bytes.length} bytes and its type ${size}`);
  }
  return (name) => {
    const member = findMember(btf, typeId, name);
    return new Field(bytes.subarray(member.offset, member.offset + member.size));
  };
}

function findMember(btf: Btf, typeId: number, name: string): { readonly offset: number; readonly size: number; readonly element: number } {
  const { type } = resolveType(btf, typeId);
  const member = type.kind === 'struct' ? type.members.find((candidate) => candidate.name === name) : undefined;
  const size = member === undefined ? undefined : sizeOfType(btf, member.type);
  if (member === undefined || size === undefined) {
    throw otherObject(`a structure has no field ${name}`);
  }
  const inner = resolveType(btf, member.type).type;
  return { offset: member.bitOffset / 8, size, element: inner.kind === 'array' ? (sizeOfType(btf, inner.type) ?? size) : size };
}

function findStruct(btf: Btf, name: string): number {
  const id = btf.idsByName(name).find((candidate) => btf.type(candidate).kind === 'struct');
  if (id === undefined) {
    throw otherObject(`it has no struct ${name}`);
  }
  return id;
}

function findSectionVariable(btf: Btf, section: string, name: string): { readonly type: number; readonly offset: number } {
  for (const id of btf.idsByName(section)) {
    const type = btf.type(id);
    const variable = type.kind === 'section' ? type.variables.find((candidate) => btf.type(candidate.type).name === name) : undefined;
    if (variable !== undefined) {
      return { type: variable.type, offset: variable.offset };
    }
  }
  throw otherObject(`it has no variable ${name} in ${section}`);
}

function otherObject(reason: string): MeshpathError {
  return new MeshpathError({
    code: 'BPF_OBJECT_INVALID',
    message: 'The BPF object is not the one that this version of Meshpath works with.',
    reason: `By its type information ${reason}.`,
    remedy: 'Build it again (npm run build) or install this version of Meshpath again.',
  });
}
