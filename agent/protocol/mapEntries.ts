import type { HexText, IpAddress, MapId, PortNumber, Uint64Text } from './scalars.ts';

/** A value decoded by BTF. Every arm can be shown as it is: text in it is untrusted. */
export type DecodedValue =
  /** Up to 32 bits. `hint` names what is known of its meaning beyond the number. */
  | { readonly kind: 'number'; readonly value: number }
  | { readonly kind: 'wide'; readonly value: Uint64Text | string }
  | { readonly kind: 'boolean'; readonly value: boolean }
  | { readonly kind: 'enum'; readonly value: number; readonly name: string | null }
  | { readonly kind: 'text'; readonly value: string }
  /** Network order in memory (`__be32 …addr`, `struct in6_addr`, Meshpath's `struct ip_address`). */
  | { readonly kind: 'address'; readonly value: IpAddress }
  /** A port, from `__be16` in network order or from a host-order field whose name says that it is a port. */
  | { readonly kind: 'port'; readonly value: PortNumber }
  | { readonly kind: 'struct'; readonly typeName: string; readonly fields: readonly DecodedField[] }
  | { readonly kind: 'array'; readonly elements: readonly DecodedValue[]; readonly omitted: number }
  /** Bytes that BTF does not describe, or not further. */
  | { readonly kind: 'bytes'; readonly value: HexText };

export interface DecodedField {
  readonly name: string;
  readonly value: DecodedValue;
}

/** The raw bytes of a key or value with what BTF makes of them (null: no BTF). */
export interface TypedBytes {
  readonly bytes: HexText;
  readonly decoded: DecodedValue | null;
}

export interface MapEntry {
  readonly key: TypedBytes;
  /** One value; for per-CPU maps one for each possible CPU, in CPU order. */
  readonly values: readonly TypedBytes[];
}

export interface MapPage {
  readonly mapId: MapId;
  readonly entries: readonly MapEntry[];
  /** Give this back to read on; null at the end. Opaque to the caller. */
  readonly nextCursor: string | null;
  /** True where entries changed while they were read, so that some may be missing or seen twice. */
  readonly changedDuringRead: boolean;
  /** When the page was read, ISO 8601. */
  readonly readAt: string;
}

/** The most entries that one page can ask for. */
export const MAX_PAGE_ENTRIES = 5_000;
