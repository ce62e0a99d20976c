/**
 * The scalar types of the protocol. Each is a plain JSON value with a brand, so that an address cannot be passed
 * where a port is wanted, nor a map id where a program id is.
 */

declare const brand: unique symbol;
type Branded<Value, Name extends string> = Value & { readonly [brand]: Name };

/** An IPv4 address in dotted form or an IPv6 address in RFC 5952 form; IPv4-mapped addresses are written as IPv4. */
export type IpAddress = Branded<string, 'IpAddress'>;
/** A range of addresses, `10.96.0.0/12` or `fd00::/8`: an IpAddress with nothing behind its prefix. */
export type IpPrefix = Branded<string, 'IpPrefix'>;
/** A TCP or UDP port, host order, 0 to 65535. */
export type PortNumber = Branded<number, 'PortNumber'>;
/** An unsigned 64-bit number as decimal text: JSON numbers lose bits above 2^53. */
export type Uint64Text = Branded<string, 'Uint64Text'>;
/** Bytes as lower-case hexadecimal text, two digits a byte, in memory order. */
export type HexText = Branded<string, 'HexText'>;
/** The kernel's id of a BPF map, unique among maps that live. */
export type MapId = Branded<number, 'MapId'>;
/** The kernel's id of a BPF program. */
export type ProgramId = Branded<number, 'ProgramId'>;
/** The kernel's id of a BPF link. */
export type LinkId = Branded<number, 'LinkId'>;
/** A cgroup2 path as /proc/PID/cgroup writes it: absolute, `/` is the root of the hierarchy. */
export type CgroupPath = Branded<string, 'CgroupPath'>;
/** A network namespace: the inode number of its /proc/PID/ns/net, decimal. */
export type NamespaceId = Branded<string, 'NamespaceId'>;

/** An address with a port. */
export interface Endpoint {
  readonly address: IpAddress;
  readonly port: PortNumber;
}

const MAX_PORT = 65_535;

/** Gives `value` as a port; throws a RangeError unless it is a whole number from 0 to 65535. */
export function toPortNumber(value: number): PortNumber {
  if (!Number.isInteger(value) || value < 0 || value > MAX_PORT) {
    throw new RangeError(`${value} is not a port: a port is a whole number from 0 to ${MAX_PORT}`);
  }
  return value as PortNumber;
}

/** Gives an unsigned 64-bit number as decimal text; throws a RangeError outside of 0 to 2^64 - 1. */
export function toUint64Text(value: bigint): Uint64Text {
  if (value < 0n || value > 0xffff_ffff_ffff_ffffn) {
    throw new RangeError(`${value} does not fit into 64 unsigned bits`);
  }
  return value.toString() as Uint64Text;
}

/** The two digits of every byte: maps of tens of thousands of entries are written with it. */
const HEX_PAIRS = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/** Gives bytes as hexadecimal text in memory order. */
export function toHexText(bytes: Uint8Array): HexText {
  let text = '';
  for (const byte of bytes) {
    text += HEX_PAIRS[byte] ?? '';
  }
  return text as HexText;
}

/** Reads hexadecimal text back to bytes; throws a RangeError where it is not pairs of digits. */
export function parseHexText(text: string): Uint8Array {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(text)) {
    throw new RangeError(`'${text.slice(0, 40)}' is not hexadecimal bytes`);
  }
  return Uint8Array.from({ length: text.length / 2 }, (_, index) => Number.parseInt(text.slice(index * 2, index * 2 + 2), 16));
}
