import { formatIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Endpoint } from '../../agent/protocol/scalars.ts';
import type { SourceLine } from '../../agent/protocol/trace.ts';
import { readSocketAddress, refreshSocket, SOCK_OPS, STATE_CALLBACK_FLAG } from './contexts.ts';
import type { Helper } from './machine.ts';
import { ProgramFault } from './memory.ts';
import type { AddressSpace } from './memory.ts';
import { ERRNO } from './maps.ts';
import type { BpfMap } from './maps.ts';
import { TCP_STATE } from './sockets.ts';
import type { KernelSocket, Task } from './sockets.ts';

/** What helpers need of the kernel around the program. */
export interface HelperKernel {
  /** Nanoseconds since boot. */
  readonly bootNanoseconds: () => bigint;
  /** The next 32 random bits of the seeded generator. */
  readonly random: () => number;
  /** Sets the source address of a socket: 0 or a negative errno (net/ipv4/af_inet.c, __inet_bind). */
  readonly bind: (socket: KernelSocket, address: Endpoint) => number;
  /** Whether a UDP socket of the same namespace gets what is sent to an address and port of it. */
  readonly receivesDatagrams: (socket: KernelSocket, destination: Endpoint) => boolean;
}

/** One call of a helper that took part in a decision. */
export interface HelperCall {
  /** How many of the lines of the run had begun. */
  readonly lineCount: number;
  readonly helper: string;
  readonly map: BpfMap | null;
  readonly key: Uint8Array | null;
  /** What it returned, as a signed number; 1 or 0 for found or not where it returns a pointer. */
  readonly result: bigint;
}

/** One run of a program: what it is about and what it leaves. */
export interface RunState {
  readonly kernel: HelperKernel;
  readonly programType: string;
  readonly context: bigint;
  readonly socket: KernelSocket;
  readonly task: Task;
  /** The cgroup that the program is attached to; null for programs that hang on a map. */
  readonly attachedCgroupId: bigint | null;
  readonly cpu: number;
  /** The operation of a sockops program. */
  readonly operation: number | null;
  /** The index of the instruction that runs. */
  instruction: number;
  /** The source lines that ran so far. */
  readonly lines: SourceLine[];
  readonly calls: HelperCall[];
  /** Where a message goes instead of to the TCP stack. */
  redirect: KernelSocket | null;
  /** To how many bytes, from the first of the message on, the verdict applies (bpf_msg_apply_bytes); 0: to the message. */
  appliedBytes: number;
}

/** struct bpf_sock_tuple of IPv4 and of IPv6: source, destination, source port and destination port, all in network order. */
const TUPLES = [
  { bytes: 12, addressBytes: 4 },
  { bytes: 36, addressBytes: 16 },
] as const;

type StatefulHelper = (state: RunState, memory: AddressSpace, ...arguments_: [bigint, bigint, bigint, bigint, bigint]) => bigint;

interface HelperDefinition {
  readonly name: string;
  readonly call: StatefulHelper;
}

const SK_STORAGE_CREATE = 1n;
const REDIRECT_INGRESS = 1n;
const SK_DROP = 0n;
const SK_PASS = 1n;
/** BPF_SOCK_OPS_ALL_CB_FLAGS. */
const ALL_CALLBACK_FLAGS = 0x7f;
const MAX_RECORD_BYTES = 64 * 1024;

const BASE: Readonly<Record<number, HelperDefinition>> = {
  1: { name: 'bpf_map_lookup_elem', call: lookup },
  2: { name: 'bpf_map_update_elem', call: update },
  3: { name: 'bpf_map_delete_elem', call: remove },
  5: { name: 'bpf_ktime_get_ns', call: (state) => state.kernel.bootNanoseconds() },
  7: { name: 'bpf_get_prandom_u32', call: (state) => BigInt(state.kernel.random()) },
  8: { name: 'bpf_get_smp_processor_id', call: (state) => BigInt(state.cpu) },
  125: { name: 'bpf_ktime_get_boot_ns', call: (state) => state.kernel.bootNanoseconds() },
  130: { name: 'bpf_ringbuf_output', call: ringbufOutput },
  131: { name: 'bpf_ringbuf_reserve', call: ringbufReserve },
  132: { name: 'bpf_ringbuf_submit', call: (_state, memory, record) => finishRecord(memory, record, true) },
  133: { name: 'bpf_ringbuf_discard', call: (_state, memory, record) => finishRecord(memory, record, false) },
};

const CURRENT: Readonly<Record<number, HelperDefinition>> = {
  14: { name: 'bpf_get_current_pid_tgid', call: (state) => (BigInt(state.task.pid) << 32n) | BigInt(state.task.pid) },
  15: { name: 'bpf_get_current_uid_gid', call: (state) => (BigInt(state.task.gid) << 32n) | BigInt(state.task.uid) },
  16: { name: 'bpf_get_current_comm', call: currentCommand },
  80: { name: 'bpf_get_current_cgroup_id', call: (state) => state.task.cgroupId },
};

const SOCKET_STORAGE: Readonly<Record<number, HelperDefinition>> = {
  107: { name: 'bpf_sk_storage_get', call: socketStorageGet },
  108: { name: 'bpf_sk_storage_delete', call: socketStorageDelete },
};

const COOKIE: Readonly<Record<number, HelperDefinition>> = { 46: { name: 'bpf_get_socket_cookie', call: (state) => state.socket.cookie } };
const NETNS_COOKIE: Readonly<Record<number, HelperDefinition>> = { 122: { name: 'bpf_get_netns_cookie', call: (state) => state.socket.netnsCookie } };
const LOCAL_STORAGE: Readonly<Record<number, HelperDefinition>> = { 81: { name: 'bpf_get_local_storage', call: localStorage } };

/** The helpers of each program type (net/core/filter.c and kernel/bpf/cgroup.c, *_func_proto) as far as they are simulated. */
const BY_PROGRAM_TYPE: Readonly<Record<string, Readonly<Record<number, HelperDefinition>>>> = {
  cgroup_sock_addr: {
    ...BASE,
    ...CURRENT,
    ...SOCKET_STORAGE,
    ...COOKIE,
    ...NETNS_COOKIE,
    ...LOCAL_STORAGE,
    64: { name: 'bpf_bind', call: bind },
    85: { name: 'bpf_sk_lookup_udp', call: lookUpDatagramSocket },
    86: { name: 'bpf_sk_release', call: releaseSocket },
  },
  sock_ops: {
    ...BASE,
    ...SOCKET_STORAGE,
    ...COOKIE,
    ...NETNS_COOKIE,
    ...LOCAL_STORAGE,
    59: { name: 'bpf_sock_ops_cb_flags_set', call: setCallbacks },
    70: { name: 'bpf_sock_hash_update', call: socketHashUpdate },
  },
  sk_msg: {
    ...BASE,
    ...CURRENT,
    ...SOCKET_STORAGE,
    ...NETNS_COOKIE,
    61: { name: 'bpf_msg_apply_bytes', call: applyBytes },
    71: { name: 'bpf_msg_redirect_hash', call: redirectHash },
  },
  cgroup_sockopt: { ...BASE, ...CURRENT, ...SOCKET_STORAGE, ...NETNS_COOKIE, ...LOCAL_STORAGE },
  cgroup_sock: { ...BASE, ...CURRENT, ...SOCKET_STORAGE, ...COOKIE, ...NETNS_COOKIE, ...LOCAL_STORAGE },
};

/** Gives the helpers that a program may call in this run; what they do acts on the kernel of `state`. */
export function helpersFor(state: RunState): ReadonlyMap<number, Helper> {
  const definitions = BY_PROGRAM_TYPE[state.programType] ?? BASE;
  return new Map(
    Object.entries(definitions).map(([number, { name, call }]): [number, Helper] => [
      Number(number),
      (memory, ...arguments_) => {
        const result = BigInt.asIntN(64, call(state, memory, ...arguments_));
        state.calls.push(describeCall(state, memory, name, arguments_, result));
        return result;
      },
    ]),
  );
}

const KEYED_HELPERS: Readonly<Record<string, readonly [map: number, key: number]>> = {
  bpf_map_lookup_elem: [0, 1],
  bpf_map_update_elem: [0, 1],
  bpf_map_delete_elem: [0, 1],
  bpf_sock_hash_update: [1, 2],
  bpf_msg_redirect_hash: [1, 2],
};

function describeCall(state: RunState, memory: AddressSpace, helper: string, arguments_: readonly bigint[], result: bigint): HelperCall {
  const place = { lineCount: state.lines.length };
  const keyed = KEYED_HELPERS[helper];
  if (keyed === undefined) {
    return { ...place, helper, map: null, key: null, result };
  }
  const map = mapAt(memory, arguments_[keyed[0]] ?? 0n);
  const key = memory.readBytes(arguments_[keyed[1]] ?? 0n, map.definition.keyBytes);
  return { ...place, helper, map, key, result: helper === 'bpf_map_lookup_elem' ? BigInt(result !== 0n) : result };
}

function mapAt(memory: AddressSpace, pointer: bigint): BpfMap {
  const { meaning, name } = memory.resolve(pointer).region;
  if (meaning.kind !== 'map') {
    throw new ProgramFault('helper-argument', `a helper wants a map and was given ${name}`);
  }
  return meaning.map;
}

function wrongMap(helper: string, map: BpfMap): ProgramFault {
  return new ProgramFault('helper-argument', `${helper} cannot work on ${map.definition.name}, which is a map of type ${map.definition.type}`);
}

/** The socket that a pointer means; to programs of sock_create the socket is the context itself. */
function socketAt(state: RunState, memory: AddressSpace, pointer: bigint): KernelSocket {
  if (state.programType === 'cgroup_sock' && pointer === state.context) {
    return state.socket;
  }
  const { meaning, name } = memory.resolve(pointer).region;
  if (meaning.kind !== 'socket') {
    throw new ProgramFault('helper-argument', `a helper wants a socket and was given ${name}`);
  }
  return meaning.socket;
}

function requireContext(state: RunState, pointer: bigint): void {
  if (pointer !== state.context) {
    throw new ProgramFault('helper-argument', 'a helper wants the context of the program and was given something else');
  }
}

function mapValue(memory: AddressSpace, map: BpfMap, bytes: Uint8Array): bigint {
  return memory.map({ name: `a value of the map ${map.definition.name}`, bytes, meaning: { kind: 'map-value', map }, writable: [[0, bytes.length]], written: null });
}

function lookup(state: RunState, memory: AddressSpace, mapPointer: bigint, keyPointer: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  const key = memory.readBytes(keyPointer, map.definition.keyBytes);
  if (map.kind !== 'hash' && map.kind !== 'array' && map.kind !== 'lpm_trie') {
    throw wrongMap('bpf_map_lookup_elem', map);
  }
  const value = map.kind === 'array' ? map.lookup(key, state.cpu) : map.lookup(key);
  return value === undefined ? 0n : mapValue(memory, map, value);
}

function update(state: RunState, memory: AddressSpace, mapPointer: bigint, keyPointer: bigint, valuePointer: bigint, flags: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  const key = memory.readBytes(keyPointer, map.definition.keyBytes);
  const value = memory.readBytes(valuePointer, map.definition.valueBytes);
  switch (map.kind) {
    case 'hash':
    case 'lpm_trie':
      return BigInt(map.update(key, value, flags));
    case 'array':
      return BigInt(map.update(key, value, flags, state.cpu));
    default:
      throw wrongMap('bpf_map_update_elem', map);
  }
}

function remove(_state: RunState, memory: AddressSpace, mapPointer: bigint, keyPointer: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  const key = memory.readBytes(keyPointer, map.definition.keyBytes);
  if (map.kind !== 'hash' && map.kind !== 'array' && map.kind !== 'sockhash' && map.kind !== 'lpm_trie') {
    throw wrongMap('bpf_map_delete_elem', map);
  }
  return BigInt(map.delete(key));
}

function currentCommand(state: RunState, memory: AddressSpace, buffer: bigint, length: bigint): bigint {
  const size = Number(length & 0xffff_ffffn);
  if (size === 0 || size > MAX_RECORD_BYTES) {
    return BigInt(-ERRNO.EINVAL);
  }
  const text = new Uint8Array(size);
  text.set(new TextEncoder().encode(state.task.command).subarray(0, Math.min(size, 16) - 1));
  memory.writeBytes(buffer, text);
  return 0n;
}

/** bpf_bind (net/core/filter.c): the family of the address is that of the socket. */
function bind(state: RunState, memory: AddressSpace, context: bigint, addressPointer: bigint, length: bigint): bigint {
  requireContext(state, context);
  const address = readSocketAddress(memory.readBytes(addressPointer, Math.min(Number(length & 0xffff_ffffn), 128)));
  if (address === undefined) {
    return BigInt(-ERRNO.EINVAL);
  }
  const result = state.kernel.bind(state.socket, address);
  refreshSocket(memory, context);
  return BigInt(result);
}

/**
 * bpf_sk_lookup_udp (net/core/filter.c, bpf_sock_addr_sk_lookup_udp) in the namespace of the socket: of what is found, programs
 * may only ask whether there is something.
 */
function lookUpDatagramSocket(state: RunState, memory: AddressSpace, context: bigint, tuplePointer: bigint, length: bigint, namespace: bigint, flags: bigint): bigint {
  requireContext(state, context);
  const layout = TUPLES.find(({ bytes }) => BigInt(bytes) === (length & 0xffff_ffffn));
  if (layout === undefined || flags !== 0n || BigInt.asIntN(32, namespace) >= 0n) {
    return 0n;
  }
  const tuple = memory.readBytes(tuplePointer, layout.bytes);
  const address = formatIpAddress(tuple.subarray(layout.addressBytes, 2 * layout.addressBytes));
  const port = toPortNumber(new DataView(tuple.buffer, tuple.byteOffset).getUint16(2 * layout.addressBytes + 2, false));
  if (!state.kernel.receivesDatagrams(state.socket, { address, port })) {
    return 0n;
  }
  return memory.map({ name: 'a socket that was looked up', bytes: new Uint8Array(0), meaning: { kind: 'bytes' }, writable: [], written: null });
}

function releaseSocket(_state: RunState, memory: AddressSpace, pointer: bigint): bigint {
  memory.unmap(pointer);
  return 0n;
}

function socketStorageGet(state: RunState, memory: AddressSpace, mapPointer: bigint, socketPointer: bigint, initial: bigint, flags: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  if (map.kind !== 'sk_storage') {
    throw wrongMap('bpf_sk_storage_get', map);
  }
  if (socketPointer === 0n || flags > SK_STORAGE_CREATE) {
    return 0n;
  }
  const socket = socketAt(state, memory, socketPointer);
  const known = socket.storage.get(map);
  if (known !== undefined) {
    return mapValue(memory, map, known);
  }
  if (flags !== SK_STORAGE_CREATE) {
    return 0n;
  }
  const bytes = initial === 0n ? new Uint8Array(map.definition.valueBytes) : memory.readBytes(initial, map.definition.valueBytes);
  socket.storage.set(map, bytes);
  return mapValue(memory, map, bytes);
}

function socketStorageDelete(state: RunState, memory: AddressSpace, mapPointer: bigint, socketPointer: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  return socketAt(state, memory, socketPointer).storage.delete(map) ? 0n : BigInt(-ERRNO.ENOENT);
}

/** bpf_get_local_storage (kernel/bpf/cgroup.c): the value of the cgroup that the program is attached to. */
function localStorage(state: RunState, memory: AddressSpace, mapPointer: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  const value = map.kind === 'cgroup_storage' && state.attachedCgroupId !== null ? map.find(state.attachedCgroupId) : undefined;
  if (value === undefined) {
    throw wrongMap('bpf_get_local_storage', map);
  }
  return mapValue(memory, map, value);
}

/** bpf_sock_ops_cb_flags_set (net/core/filter.c): gives back the flags that the kernel does not know. */
function setCallbacks(state: RunState, _memory: AddressSpace, context: bigint, flags: bigint): bigint {
  requireContext(state, context);
  const wanted = Number(flags & 0xffff_ffffn);
  state.socket.callbacks = wanted & ALL_CALLBACK_FLAGS;
  return BigInt(wanted & ~ALL_CALLBACK_FLAGS);
}

/** bpf_sock_hash_update (net/core/sock_map.c): only in these operations, see sock_map_op_okay. */
function socketHashUpdate(state: RunState, memory: AddressSpace, context: bigint, mapPointer: bigint, keyPointer: bigint, flags: bigint): bigint {
  requireContext(state, context);
  const map = mapAt(memory, mapPointer);
  if (map.kind !== 'sockhash') {
    throw wrongMap('bpf_sock_hash_update', map);
  }
  const key = memory.readBytes(keyPointer, map.definition.keyBytes);
  const { operation } = state;
  const allowed = operation === SOCK_OPS.ACTIVE_ESTABLISHED || operation === SOCK_OPS.PASSIVE_ESTABLISHED || operation === SOCK_OPS.TCP_LISTEN;
  return allowed ? BigInt(map.insert(key, state.socket, flags)) : BigInt(-ERRNO.EOPNOTSUPP);
}

/** bpf_msg_redirect_hash (net/core/sock_map.c): SK_PASS where the key has an established socket, else SK_DROP. */
function redirectHash(state: RunState, memory: AddressSpace, context: bigint, mapPointer: bigint, keyPointer: bigint, flags: bigint): bigint {
  requireContext(state, context);
  const map = mapAt(memory, mapPointer);
  if (map.kind !== 'sockhash') {
    throw wrongMap('bpf_msg_redirect_hash', map);
  }
  const target = map.find(memory.readBytes(keyPointer, map.definition.keyBytes));
  if ((flags & ~REDIRECT_INGRESS) !== 0n || target?.state !== TCP_STATE.ESTABLISHED) {
    return SK_DROP;
  }
  state.redirect = target;
  return SK_PASS;
}

/** bpf_msg_apply_bytes (net/core/filter.c): the last call counts. */
function applyBytes(state: RunState, _memory: AddressSpace, context: bigint, bytes: bigint): bigint {
  requireContext(state, context);
  state.appliedBytes = Number(BigInt.asUintN(32, bytes));
  return 0n;
}

function ringbufReserve(_state: RunState, memory: AddressSpace, mapPointer: bigint, length: bigint, flags: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  if (map.kind !== 'ringbuf') {
    throw wrongMap('bpf_ringbuf_reserve', map);
  }
  const record = flags === 0n && length <= BigInt(map.definition.maxEntries) ? map.reserve(Number(length)) : undefined;
  if (record === undefined) {
    return 0n;
  }
  return memory.map({
    name: `a record of the ring buffer ${map.definition.name}`,
    bytes: record,
    meaning: { kind: 'ringbuf-record', map },
    writable: [[0, record.length]],
    written: null,
  });
}

function finishRecord(memory: AddressSpace, pointer: bigint, keep: boolean): bigint {
  const { region, offset } = memory.resolve(pointer);
  if (region.meaning.kind !== 'ringbuf-record' || region.meaning.map.kind !== 'ringbuf' || offset !== 0) {
    throw new ProgramFault('helper-argument', `a helper wants a reserved record and was given ${region.name}`);
  }
  if (keep) {
    region.meaning.map.submit(region.bytes);
  } else {
    region.meaning.map.discard(region.bytes);
  }
  memory.unmap(pointer);
  return 0n;
}

function ringbufOutput(_state: RunState, memory: AddressSpace, mapPointer: bigint, data: bigint, length: bigint): bigint {
  const map = mapAt(memory, mapPointer);
  if (map.kind !== 'ringbuf') {
    throw wrongMap('bpf_ringbuf_output', map);
  }
  const record = length <= BigInt(map.definition.maxEntries) ? map.reserve(Number(length)) : undefined;
  if (record === undefined) {
    return BigInt(-ERRNO.EAGAIN);
  }
  record.set(memory.readBytes(data, record.length));
  map.submit(record);
  return 0n;
}

/** Says whether a socket asked to be told of changes of its TCP state. */
export function wantsStateChanges(socket: KernelSocket): boolean {
  return (socket.callbacks & STATE_CALLBACK_FLAG) !== 0;
}
