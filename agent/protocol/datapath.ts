import { DECISION_HOOKS, DECISION_REASONS } from './acceleration.ts';
import type { DecisionCounters, DecisionEvent, DecisionReason, MeshProfile } from './acceleration.ts';
import { resolveType, sizeOfType } from './btf.ts';
import type { Btf, BtfType } from './btf.ts';
import { MeshpathError } from './errors.ts';
import { formatIpAddress, isIpv4, mappedAddressBytes, splitIpPrefix, toIpAddress } from './ipAddress.ts';
import { toPortNumber, toUint64Text } from './scalars.ts';
import type { Endpoint, IpAddress, IpPrefix, Uint64Text } from './scalars.ts';

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
  /** Events that are told in a tenth of a second; the others are counted only. 0: no limit. */
  readonly eventLimit: number;
  /** Whether sockops programs may call bpf_get_netns_cookie (Linux 5.15). */
  readonly hasNetnsCookie: boolean;
}

/** The names of the object's programs. */
export const DATAPATH_PROGRAMS = {
  create: 'meshpath_sock_create',
  connect: 'meshpath_connect4',
  connect6: 'meshpath_connect6',
  sockops: 'meshpath_sockops',
  message: 'meshpath_sk_msg',
  getsockopt: 'meshpath_getsockopt',
  getpeername: 'meshpath_getpeername4',
  getpeername6: 'meshpath_getpeername6',
  getsockname: 'meshpath_getsockname4',
  getsockname6: 'meshpath_getsockname6',
  send: 'meshpath_sendmsg4',
  send6: 'meshpath_sendmsg6',
  receive: 'meshpath_recvmsg4',
  receive6: 'meshpath_recvmsg6',
  release: 'meshpath_sock_release',
} as const;

/**
 * The programs that send connections elsewhere. All others of a cgroup answer about those connections and see to their end: they
 * are attached before these, and stay until the last connection closes.
 */
export const REWRITING_PROGRAMS: readonly string[] = [DATAPATH_PROGRAMS.connect, DATAPATH_PROGRAMS.connect6];

/** The numbers of enum port_list and enum range_list in bpf/meshpath.h, in the order of their bits or values. */
const PORT_LISTS = ['excludedOutboundPorts', 'excludedInboundPorts', 'tunnelPorts', 'includedOutboundPorts', 'includedInboundPorts'] as const;
const RANGE_LISTS = ['excludedOutboundRanges', 'includedOutboundRanges', 'excludedInboundRanges', 'includedInboundRanges', 'dnsResolvers'] as const;
/** The numbers of enum owner_kind and enum owner. */
export const OWNER_KIND = { uid: 0, gid: 1 } as const;
export const OWNER = { sidecar: 1, passed: 2 } as const;

const DNS_PORT = 53;
const UID_UNKNOWN = 0xffff_ffff;
/** What events say where an address is not known. */
const NO_ADDRESS = toIpAddress('0.0.0.0');
/** How many entries the map `counters` has: one for each reason, and one for events that the ring buffer had no room for. */
export const COUNTER_ENTRIES = DECISION_REASONS.length + 1;

const STRUCTURES = ['mesh_profile', 'pod', 'pod_owner', 'connection', 'connection_key', 'socket_key', 'decision_event', 'control'] as const;
const MAP_NAMES = ['sockets', 'connections', 'pod_addresses', 'pods', 'control', 'counters', 'events'] as const;

/** A number in the order of the machine, bytes as they are, or the numbers of an array. */
export type FieldValue = bigint | Uint8Array | readonly bigint[];

/**
 * Gives `.rodata` with the settings in its variable `profile`. `initial` is the section as the object has it.
 * Throws BPF_OBJECT_INVALID where the object is another.
 */
export function encodeSettings(btf: Btf, initial: Uint8Array, settings: DatapathSettings): Uint8Array {
  const { profile } = settings;
  const structure = layoutOf(btf, 'mesh_profile');
  const start = offsetOfVariable(btf, '.rodata', 'profile');
  if (start + structure.size > initial.length) {
    throw otherObject(`its read-only data has ${initial.length} bytes, and the profile ends at ${start + structure.size}`);
  }
  const bytes = new Uint8Array(initial);
  writeFields(structure, bytes.subarray(start), {
    unread_limit: settings.unreadLimit,
    connection_limit: settings.connectionLimit,
    event_limit: BigInt(settings.eventLimit),
    passthrough_source: addressOrNone(profile.passthroughSource),
    passthrough_source6: addressOrNone(profile.passthroughSourceV6),
    outbound_port: BigInt(profile.outboundPort),
    inbound_port: BigInt(profile.inboundPort),
    has_netns_cookie: toBit(settings.hasNetnsCookie),
    redirects_own: toBit(profile.redirectsOwnPod),
    has_ranges_first: toBit(profile.excludesRangesFirst),
    has_ports_first: toBit(profile.excludesPortsFirst),
    has_ranges: toBit(RANGE_LISTS.some((list) => profile[list].length > 0)),
    has_included_outbound: toBit(profile.includedOutboundPorts.length + profile.includedOutboundRanges.length > 0),
    dns_port: BigInt(profile.dnsPort ?? 0),
    has_resolvers: toBit(profile.dnsResolvers.length > 0),
    excludes_datagrams: toBit(profile.excludesPortsOverUdp && profile.excludedOutboundPorts.some((port) => port === DNS_PORT)),
    has_included_inbound: toBit(profile.includedInboundPorts.length + profile.includedInboundRanges.length > 0),
  });
  return bytes;
}

/** Says whether type information is that of Meshpath's own programs, of this version or another: by their structures and maps. */
export function isDatapathBtf(btf: Btf): boolean {
  const isKind = (name: string, kind: BtfType['kind']): boolean => btf.idsByName(name).some((id) => btf.type(id).kind === kind);
  return STRUCTURES.every((name) => isKind(name, 'struct')) && MAP_NAMES.every((name) => isKind(name, 'variable'));
}

/** An entry of a map of the object. */
export interface ProfileEntry {
  readonly map: 'owners' | 'ports' | 'ranges';
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** Gives the entries of the maps that hold the lists of a profile; they have to be there before anything is attached. */
export function encodeProfileEntries(btf: Btf, profile: MeshProfile): readonly ProfileEntry[] {
  const owner = (kind: number, id: number, value: number): ProfileEntry => ({
    map: 'owners',
    key: encodeStructure(btf, 'owner_key', { kind: BigInt(kind), id: BigInt(id) }),
    value: encodeWord(value),
  });
  const portLists = new Map<number, number>();
  PORT_LISTS.forEach((list, index) => {
    for (const port of profile[list]) {
      portLists.set(port, (portLists.get(port) ?? 0) | (1 << index));
    }
  });
  return [
    // The sidecar last: its own entry counts where it is in a list too.
    ...profile.passedUids.map((uid) => owner(OWNER_KIND.uid, uid, OWNER.passed)),
    ...profile.passedGids.map((gid) => owner(OWNER_KIND.gid, gid, OWNER.passed)),
    owner(OWNER_KIND.uid, profile.proxyUid, OWNER.sidecar),
    ...[...portLists].map(([port, lists]): ProfileEntry => ({ map: 'ports', key: encodeWord(port), value: encodeWord(lists) })),
    ...RANGE_LISTS.flatMap((list, index) =>
      profile[list].map((range): ProfileEntry => ({ map: 'ranges', key: encodeRange(btf, index, range), value: encodeWord(1) })),
    ),
  ];
}

/** An IPv4 range is one of mapped addresses: 96 bits more. In front of the address are 32 bits that always count. */
function encodeRange(btf: Btf, list: number, range: IpPrefix): Uint8Array {
  const { address, bits } = splitIpPrefix(range);
  const isOfIpv4 = isIpv4(address);
  return encodeStructure(btf, 'range_key', {
    prefix_bits: BigInt(32 + bits + (isOfIpv4 ? 96 : 0)),
    list: BigInt(list),
    is_ipv4: toBit(isOfIpv4),
    address: mappedAddressBytes(address),
  });
}

function encodeWord(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

function addressOrNone(address: IpAddress | null): Uint8Array {
  return address === null ? new Uint8Array(16) : mappedAddressBytes(address);
}

function toBit(value: boolean): bigint {
  return value ? 1n : 0n;
}

/**
 * Gives a value of the map `pods`: `source` is what its connections come from, its first IPv4 address where it has one,
 * and `source6` its first IPv6 address.
 */
export function encodePod(btf: Btf, cgroupId: bigint, source: IpAddress | undefined, source6?: IpAddress): Uint8Array {
  return encodeStructure(btf, 'pod', {
    cgroup_id: cgroupId,
    ...(source === undefined ? {} : { source: mappedAddressBytes(source) }),
    ...(source6 === undefined ? {} : { source6: mappedAddressBytes(source6) }),
  });
}

/** Gives a value of the map `pods` that says that the pod is not known (any more): nothing of it is rewritten. */
export function encodeNoPod(btf: Btf): Uint8Array {
  return encodeStructure(btf, 'pod', {});
}

/**
 * Gives the value of the map `pod_addresses` for one of the addresses of a pod. REDIRECT sends what comes into a pod to the
 * first address of its device, of the same family (nf_nat_redirect_ipv4, nf_nat_redirect_ipv6).
 */
export function encodePodOwner(btf: Btf, cgroupId: bigint, address: IpAddress, addresses: readonly IpAddress[]): Uint8Array {
  const first = addresses.find((candidate) => isIpv4(candidate) === isIpv4(address)) ?? address;
  return encodeStructure(btf, 'pod_owner', { cgroup_id: cgroupId, inbound: mappedAddressBytes(first) });
}

/** Gives the value of the map `control`: whether everything is switched off, and how many entries `stopped_pods` has. */
export function encodeControl(btf: Btf, isSwitchedOff: boolean, stoppedPods: number): Uint8Array {
  return encodeStructure(btf, 'control', { switched_off: toBit(isSwitchedOff), stopped_pods: BigInt(stoppedPods) });
}

/** Gives the key of a pod in the map `stopped_pods`. */
export function encodeStoppedPod(cgroupId: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  writeUnsigned(bytes, cgroupId);
  return bytes;
}

/** The value of every entry of `stopped_pods`. */
export const STOPPED = encodeWord(1);

/** Says whether two versions of the programs have a structure alike, so that they can share a map of it. */
export function isSameStructure(left: Btf, right: Btf, name: string): boolean {
  const [first, second] = [layoutOf(left, name), layoutOf(right, name)];
  return (
    first.size === second.size &&
    first.fields.size === second.fields.size &&
    [...first.fields].every(([field, { offset, size, elementSize }]) => {
      const other = second.fields.get(field);
      return other?.offset === offset && other.size === size && other.elementSize === elementSize;
    })
  );
}

/** Reads the id of the pod's cgroup from a value of the map `pods` or `pod_addresses`; 0n: no pod. */
export function decodePodId(btf: Btf, structure: 'pod' | 'pod_owner', bytes: Uint8Array): bigint {
  return readFields(layoutOf(btf, structure), bytes)('cgroup_id').unsigned();
}

/** Says whether a value of the map `control` has the switch off. */
export function decodeSwitchedOff(btf: Btf, bytes: Uint8Array): boolean {
  return readFields(layoutOf(btf, 'control'), bytes)('switched_off').unsigned() !== 0n;
}

/** What is of use of a value of the map `connections`. */
export interface ConnectionState {
  readonly openedBootNanoseconds: bigint;
  /** Ids of the cgroups of the pods at both ends; 0n: not known. */
  readonly connectingCgroupId: bigint;
  readonly acceptingCgroupId: bigint;
  /** Whether both sockets are in the sockhash and their messages are redirected. */
  readonly isAccelerated: boolean;
  /** Whether it was rewritten, and its accepting side does not know yet, or was not asked yet, where it was to go. */
  readonly isPending: boolean;
}

/** Reads a value of the map `connections`. */
export function decodeConnection(btf: Btf, bytes: Uint8Array): ConnectionState {
  const fields = readFields(layoutOf(btf, 'connection'), bytes);
  const isSet = (name: string): boolean => fields(name).unsigned() !== 0n;
  return {
    openedBootNanoseconds: fields('opened_boot_nanoseconds').unsigned(),
    connectingCgroupId: fields('connecting_cgroup_id').unsigned(),
    acceptingCgroupId: fields('accepting_cgroup_id').unsigned(),
    isAccelerated: isSet('is_connecting_enrolled') && isSet('is_accepting_enrolled') && !isSet('is_switched_off') && !isSet('is_left'),
    isPending: isSet('is_rewritten') && !(isSet('accepting_cookie') && isSet('is_answered')),
  };
}

/** Gives how many bytes of a connection, a value of the map `connections`, were redirected either way. */
export function decodeRedirectedBytes(btf: Btf, bytes: Uint8Array): bigint {
  const fields = readFields(layoutOf(btf, 'connection'), bytes);
  return fields('redirected_by_connecting').unsigned() + fields('redirected_by_accepting').unsigned();
}

/** A value of the map `questions`: a UDP socket that waits for an answer of the sidecar's resolver. */
export interface OpenQuestion {
  readonly cgroupId: bigint;
  /** When it last asked, since boot. */
  readonly askedBootNanoseconds: bigint;
}

/** Reads a value of the map `questions`. */
export function decodeQuestion(btf: Btf, bytes: Uint8Array): OpenQuestion {
  const fields = readFields(layoutOf(btf, 'question'), bytes);
  return { cgroupId: fields('cgroup_id').unsigned(), askedBootNanoseconds: fields('asked_boot_nanoseconds').unsigned() };
}

/** Reads a record of the ring buffer. Gives undefined for one that is too short, or of a hook or reason that this version does not know. */
export function decodeDecisionEvent(btf: Btf, bytes: Uint8Array): DecisionEvent | undefined {
  const decode = knownEventDecoders.get(btf) ?? createEventDecoder(btf);
  knownEventDecoders.set(btf, decode);
  return decode(bytes);
}

type EventDecoder = (bytes: Uint8Array) => DecisionEvent | undefined;

const knownEventDecoders = new WeakMap<Btf, EventDecoder>();

/** Looks the places of all fields up once: events come by the thousand. */
function createEventDecoder(btf: Btf): EventDecoder {
  const structure = layoutOf(btf, 'decision_event');
  const endpointLayout = layoutOf(btf, 'endpoint');
  const offsetOf = (name: string): number => fieldOf(structure, name).offset;
  const at = {
    bootNanoseconds: offsetOf('boot_nanoseconds'),
    socketCookie: offsetOf('socket_cookie'),
    cgroupId: offsetOf('cgroup_id'),
    netnsCookie: offsetOf('netns_cookie'),
    local: offsetOf('local'),
    remote: offsetOf('remote'),
    original: offsetOf('original'),
    hook: offsetOf('hook'),
    reason: offsetOf('reason'),
    error: offsetOf('error'),
    uid: offsetOf('uid'),
    bytes: offsetOf('bytes'),
  };
  const address = fieldOf(endpointLayout, 'address');
  const port = fieldOf(endpointLayout, 'port');
  return (bytes) => {
    if (bytes.length < structure.size) {
      return undefined;
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const hook = DECISION_HOOKS[view.getUint32(at.hook, true)];
    const reason = DECISION_REASONS[view.getUint32(at.reason, true)];
    if (hook === undefined || reason === undefined) {
      return undefined;
    }
    const wide = (offset: number): Uint64Text => toUint64Text(view.getBigUint64(offset, true));
    const isZero = (offset: number, size: number): boolean => {
      for (let index = offset; index < offset + size; index += 1) {
        if (bytes[index] !== 0) {
          return false;
        }
      }
      return true;
    };
    const endpoint = (offset: number): Endpoint => {
      const start = offset + address.offset;
      return {
        address: isZero(start, address.size) ? NO_ADDRESS : formatIpAddress(bytes.subarray(start, start + address.size)),
        port: toPortNumber(view.getUint16(offset + port.offset)),
      };
    };
    const uid = view.getUint32(at.uid, true);
    return {
      bootNanoseconds: wide(at.bootNanoseconds),
      hook,
      reason,
      errno: view.getUint32(at.error, true),
      socketCookie: wide(at.socketCookie),
      cgroupId: wide(at.cgroupId),
      netnsCookie: wide(at.netnsCookie),
      uid: uid === UID_UNKNOWN ? null : uid,
      local: endpoint(at.local),
      remote: endpoint(at.remote),
      original: isZero(at.original, endpointLayout.size) ? null : endpoint(at.original),
      bytes: view.getUint32(at.bytes, true),
    };
  };
}

/** What the map `counters` says: how often each reason was counted, and how many events the ring buffer had no room for. */
export interface CounterSums {
  readonly reasons: DecisionCounters;
  readonly lost: number;
}

/** Reads the map `counters`: for each of its indexes one little-endian number for each CPU, which are added up. */
export function sumCounters(values: readonly (readonly Uint8Array[])[]): CounterSums {
  const sum = (index: number): bigint => (values[index] ?? []).reduce((total, bytes) => total + new Field(bytes).unsigned(), 0n);
  const reasons = DECISION_REASONS.map((reason, index): [DecisionReason, Uint64Text] => [reason, toUint64Text(sum(index))]);
  return { reasons: Object.fromEntries(reasons) as Record<DecisionReason, Uint64Text>, lost: Number(sum(DECISION_REASONS.length)) };
}

/** A structure by its BTF: bytes. */
interface StructLayout {
  readonly name: string;
  readonly size: number;
  readonly fields: ReadonlyMap<string, FieldLayout>;
}

interface FieldLayout {
  readonly offset: number;
  readonly size: number;
  /** For an array the bytes of one element; else those of the field. */
  readonly elementSize: number;
}

/** Layouts that were looked up before: events come by the thousand. */
const knownLayouts = new WeakMap<Btf, Map<string, StructLayout>>();

function layoutOf(btf: Btf, name: string): StructLayout {
  const known = knownLayouts.get(btf) ?? new Map<string, StructLayout>();
  knownLayouts.set(btf, known);
  const layout = known.get(name) ?? readLayout(btf, name);
  known.set(name, layout);
  return layout;
}

function readLayout(btf: Btf, name: string): StructLayout {
  const type = btf.idsByName(name).map(btf.type).find(({ kind }) => kind === 'struct');
  if (type?.kind !== 'struct') {
    throw otherObject(`it has no struct ${name}`);
  }
  const fields = new Map<string, FieldLayout>();
  for (const member of type.members) {
    const size = sizeOfType(btf, member.type);
    const inner = resolveType(btf, member.type).type;
    const elementSize = inner.kind === 'array' ? sizeOfType(btf, inner.type) : size;
    const offset = member.bitOffset / 8;
    if (size !== undefined && elementSize !== undefined && elementSize > 0 && member.bitfieldBits === 0 && offset + size <= type.size) {
      fields.set(member.name, { offset, size, elementSize });
    }
  }
  return { name, size: type.size, fields };
}

function fieldOf(structure: StructLayout, name: string): FieldLayout {
  const field = structure.fields.get(name);
  if (field === undefined) {
    throw otherObject(`its struct ${structure.name} has no field ${name} of whole bytes`);
  }
  return field;
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
}

/** Gives a value of a structure of the programs with these fields, by their names in C; all others are zero. Throws BPF_OBJECT_INVALID. */
export function encodeStructure(btf: Btf, name: string, fields: Readonly<Record<string, FieldValue>>): Uint8Array {
  const structure = layoutOf(btf, name);
  return writeFields(structure, new Uint8Array(structure.size), fields);
}

/** Writes these fields into `bytes` and gives it; what else is in it stays. */
function writeFields(structure: StructLayout, bytes: Uint8Array, fields: Readonly<Record<string, FieldValue>>): Uint8Array {
  requireSize(structure, bytes);
  for (const [name, value] of Object.entries(fields)) {
    const { offset, size, elementSize } = fieldOf(structure, name);
    const target = bytes.subarray(offset, offset + size);
    if (value instanceof Uint8Array) {
      if (value.length !== size) {
        throw otherObject(`its field ${name} has ${size} bytes and not ${value.length}`);
      }
      target.set(value);
    } else if (typeof value === 'bigint') {
      writeUnsigned(target, value);
    } else {
      target.fill(0);
      value.forEach((part, index) => {
        writeUnsigned(target.subarray(index * elementSize, (index + 1) * elementSize), part);
      });
    }
  }
  return bytes;
}

function writeUnsigned(target: Uint8Array, value: bigint): void {
  let rest = value;
  for (let index = 0; index < target.length; index += 1) {
    target[index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

function readFields(structure: StructLayout, bytes: Uint8Array): (name: string) => Field {
  requireSize(structure, bytes);
  return (name) => {
    const { offset, size } = fieldOf(structure, name);
    return new Field(bytes.subarray(offset, offset + size));
  };
}

function requireSize({ name, size }: StructLayout, bytes: Uint8Array): void {
  if (bytes.length < size) {
    throw otherObject(`a struct ${name} has ${size} bytes and the value ${bytes.length}`);
  }
}

function offsetOfVariable(btf: Btf, section: string, name: string): number {
  for (const id of btf.idsByName(section)) {
    const type = btf.type(id);
    const variable = type.kind === 'section' ? type.variables.find((candidate) => btf.type(candidate.type).name === name) : undefined;
    if (variable !== undefined) {
      return variable.offset;
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
