import { formatIpAddress, mappedAddressBytes } from '../protocol/ipAddress.ts';
import { inputError } from '../protocol/errors.ts';
import type { MeshProfile } from '../protocol/acceleration.ts';
import type { Endpoint, IpAddress, PortNumber } from '../protocol/scalars.ts';

/**
 * The structures of bpf/meshpath.h: their sizes, and the offsets of the fields that are used here, bytes. Numbers are
 * little-endian, as the programs are compiled; addresses (16 bytes) and ports (2) are in network order. A test compares
 * all of it with the BTF of the object.
 */
export const LAYOUT = {
  connection: {
    bytes: 112,
    fields: {
      is_rewritten: 20,
      is_connecting_enrolled: 21,
      is_accepting_enrolled: 22,
      is_answered: 23,
      accepting_cookie: 40,
      connecting_cgroup_id: 48,
      accepting_cgroup_id: 56,
      is_switched_off: 108,
    },
  },
  connection_key: { bytes: 48, fields: {} },
  pod: { bytes: 24, fields: { cgroup_id: 0, source: 8 } },
  pod_owner: { bytes: 8, fields: { cgroup_id: 0 } },
  control: { bytes: 16, fields: { switched_off: 0 } },
  mesh_profile: {
    bytes: 112,
    fields: {
      unread_limit: 0,
      connection_limit: 8,
      passthrough_source: 16,
      proxy_uid: 32,
      proxy_gid: 36,
      outbound_port: 40,
      inbound_port: 42,
      excluded_inbound_ports: 44,
      excluded_outbound_ports: 76,
      has_netns_cookie: 108,
    },
  },
  decision_event: {
    bytes: 112,
    fields: {
      boot_nanoseconds: 0,
      socket_cookie: 8,
      cgroup_id: 16,
      netns_cookie: 24,
      local: 32,
      remote: 52,
      original: 72,
      hook: 92,
      reason: 96,
      error: 100,
      uid: 104,
      bytes: 108,
    },
  },
} as const;

/** EXCLUDED_PORTS_MAX of bpf/meshpath.h. */
export const MAX_EXCLUDED_PORTS = 16;
const ADDRESS_BYTES = 16;

/** What `.rodata` says beyond the mesh. */
export interface DatapathLimits {
  /** Bytes that are redirected one way without an answer before the rest goes through TCP; 0n: no limit. */
  readonly unreadLimit: bigint;
  /** Connections in the map `connections` from which on new ones are left to iptables. */
  readonly connectionLimit: bigint;
  /** Whether sockops programs may ask for the cookie of the network namespace (Linux 5.15). */
  readonly hasNetnsCookie: boolean;
}

/** Gives `struct mesh_profile`. Throws INPUT_INVALID where the profile excludes more ports than it has room for. */
export function encodeProfile(profile: MeshProfile, limits: DatapathLimits): Uint8Array {
  const { bytes, fields } = LAYOUT.mesh_profile;
  const encoded = new Uint8Array(bytes);
  const view = new DataView(encoded.buffer);
  view.setBigUint64(fields.unread_limit, limits.unreadLimit, true);
  view.setBigUint64(fields.connection_limit, limits.connectionLimit, true);
  if (profile.passthroughSource !== null) {
    encoded.set(mappedAddressBytes(profile.passthroughSource), fields.passthrough_source);
  }
  view.setUint32(fields.proxy_uid, profile.proxyUid, true);
  view.setUint32(fields.proxy_gid, profile.proxyGid, true);
  view.setUint16(fields.outbound_port, profile.outboundPort, true);
  view.setUint16(fields.inbound_port, profile.inboundPort, true);
  setPorts(view, fields.excluded_inbound_ports, profile.excludedInboundPorts);
  setPorts(view, fields.excluded_outbound_ports, profile.excludedOutboundPorts);
  view.setUint32(fields.has_netns_cookie, limits.hasNetnsCookie ? 1 : 0, true);
  return encoded;
}

function setPorts(view: DataView, offset: number, ports: readonly PortNumber[]): void {
  if (ports.length > MAX_EXCLUDED_PORTS) {
    throw inputError(
      'The profile excludes too many ports.',
      `It excludes ${ports.length} ports one way, and there is room for ${MAX_EXCLUDED_PORTS}.`,
      'Exclude fewer ports.',
    );
  }
  for (const [index, port] of ports.entries()) {
    view.setUint16(offset + index * 2, port, true);
  }
}

/** Gives `struct pod`; `source` is what its connections come from, and all zero bytes where it has no IPv4 address. */
export function encodePod(cgroupId: bigint, source: IpAddress | undefined): Uint8Array {
  const { bytes, fields } = LAYOUT.pod;
  const encoded = new Uint8Array(bytes);
  new DataView(encoded.buffer).setBigUint64(fields.cgroup_id, cgroupId, true);
  if (source !== undefined) {
    encoded.set(mappedAddressBytes(source), fields.source);
  }
  return encoded;
}

/** Gives a number of 64 bits: `struct pod_owner`, and the key of `pods`. */
export function encodeCgroupId(cgroupId: bigint): Uint8Array {
  const encoded = new Uint8Array(LAYOUT.pod_owner.bytes);
  new DataView(encoded.buffer).setBigUint64(0, cgroupId, true);
  return encoded;
}

/** Gives `struct control` with its switch off; what else is in it counts, and is taken from `current`. */
export function encodeSwitchedOff(current: Uint8Array): Uint8Array {
  const encoded = current.slice();
  new DataView(encoded.buffer).setUint32(LAYOUT.control.fields.switched_off, 1, true);
  return encoded;
}

/** What is of use here of a `struct connection`. */
export interface ConnectionState {
  /** Ids of the cgroups of the pods at both ends; 0n: not known. */
  readonly connectingCgroupId: bigint;
  readonly acceptingCgroupId: bigint;
  /** Whether both sockets are in the sockhash. */
  readonly isAccelerated: boolean;
  /** Whether the accepting side does not know yet, or was not asked yet, where the connection was to go. */
  readonly isPending: boolean;
}

/** Reads a `struct connection`. */
export function decodeConnection(bytes: Uint8Array): ConnectionState {
  const { fields } = LAYOUT.connection;
  const view = viewOf(bytes);
  const isSet = (offset: number): boolean => view.getUint8(offset) !== 0;
  const isAccepted = view.getBigUint64(fields.accepting_cookie, true) !== 0n;
  return {
    connectingCgroupId: view.getBigUint64(fields.connecting_cgroup_id, true),
    acceptingCgroupId: view.getBigUint64(fields.accepting_cgroup_id, true),
    isAccelerated: isSet(fields.is_connecting_enrolled) && isSet(fields.is_accepting_enrolled) && !isSet(fields.is_switched_off),
    isPending: isSet(fields.is_rewritten) && !(isAccepted && isSet(fields.is_answered)),
  };
}

/** Gives a `struct connection` as it was, with its messages no longer redirected. */
export function encodeConnectionSwitchedOff(current: Uint8Array): Uint8Array {
  const encoded = current.slice();
  encoded[LAYOUT.connection.fields.is_switched_off] = 1;
  return encoded;
}

/** Reads a `struct endpoint` at an offset; null where its address is all zero. */
export function decodeEndpoint(bytes: Uint8Array, offset: number): Endpoint | null {
  const address = bytes.subarray(offset, offset + ADDRESS_BYTES);
  if (address.every((byte) => byte === 0)) {
    return null;
  }
  return { address: formatIpAddress(address), port: viewOf(bytes).getUint16(offset + ADDRESS_BYTES, false) as PortNumber };
}

/** Gives a view of bytes wherever they lie in their buffer. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
