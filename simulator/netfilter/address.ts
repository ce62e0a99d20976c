import { formatIpAddress, ipAddressBytes } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';

/** More texts than this are not remembered: worlds have few addresses, hostile input has many. */
const MAX_REMEMBERED = 65_536;
const remembered = new Map<string, Address>();

/**
 * An address ready to be compared: four words of 32 bits, signed as JavaScript's bit operations give them, most significant
 * first. IPv4 has its address in the first word and zeros in the others.
 */
export class Address {
  readonly isIpv4: boolean;
  readonly w0: number;
  readonly w1: number;
  readonly w2: number;
  readonly w3: number;
  #text: IpAddress | undefined;

  private constructor(isIpv4: boolean, w0: number, w1: number, w2: number, w3: number) {
    this.isIpv4 = isIpv4;
    this.w0 = w0;
    this.w1 = w1;
    this.w2 = w2;
    this.w3 = w3;
  }

  /** Gives the address of a text that parseIpAddress has accepted; throws a RangeError for another. */
  static of(text: IpAddress): Address {
    const known = remembered.get(text);
    if (known !== undefined) {
      return known;
    }
    const bytes = ipAddressBytes(text);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const word = (index: number): number => (index * 4 < bytes.length ? view.getInt32(index * 4) : 0);
    const address = new Address(bytes.length === 4, word(0), word(1), word(2), word(3));
    if (remembered.size >= MAX_REMEMBERED) {
      remembered.clear();
    }
    remembered.set(text, address);
    return address;
  }

  /** Gives the IPv4 address of a number in host order. */
  static ofIpv4(value: number): Address {
    return new Address(true, value | 0, 0, 0, 0);
  }

  /** Gives the IPv6 address of four words in host order, most significant first. */
  static ofIpv6(w0: number, w1: number, w2: number, w3: number): Address {
    return new Address(false, w0 | 0, w1 | 0, w2 | 0, w3 | 0);
  }

  /** The address as text. */
  get text(): IpAddress {
    if (this.#text === undefined) {
      const bytes = new Uint8Array(this.isIpv4 ? 4 : 16);
      const view = new DataView(bytes.buffer);
      view.setInt32(0, this.w0);
      if (!this.isIpv4) {
        view.setInt32(4, this.w1);
        view.setInt32(8, this.w2);
        view.setInt32(12, this.w3);
      }
      this.#text = formatIpAddress(bytes);
    }
    return this.#text;
  }

  equals(other: Address): boolean {
    return this.w0 === other.w0 && this.w1 === other.w1 && this.w2 === other.w2 && this.w3 === other.w3 && this.isIpv4 === other.isIpv4;
  }

  /** Below zero, zero or above it, as this address is less than, the same as or greater than another of its family. */
  compare(other: Address): number {
    return (this.w0 >>> 0) - (other.w0 >>> 0) || (this.w1 >>> 0) - (other.w1 >>> 0) || (this.w2 >>> 0) - (other.w2 >>> 0) || (this.w3 >>> 0) - (other.w3 >>> 0);
  }
}

/** Gives the mask of a prefix length as four words, as Address has them. */
export function maskWords(prefixLength: number): readonly [number, number, number, number] {
  const word = (index: number): number => {
    const bits = Math.min(32, Math.max(0, prefixLength - index * 32));
    return bits === 0 ? 0 : -1 << (32 - bits);
  };
  return [word(0), word(1), word(2), word(3)];
}

/** A network of addresses: `mask` is there where it has holes. */
export interface Network {
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly mask?: IpAddress;
}

/** Gives the mask of a network as four words. */
export function networkMask(network: Network): readonly [number, number, number, number] {
  if (network.mask === undefined) {
    return maskWords(network.prefixLength);
  }
  const { w0, w1, w2, w3 } = Address.of(network.mask);
  return [w0, w1, w2, w3];
}

/** Makes a test of whether addresses of one family lie in a network; an address of the other family never does. */
export function prefixTest(network: Network): (address: Address) => boolean {
  const base = Address.of(network.address);
  const [m0, m1, m2, m3] = networkMask(network);
  const v0 = base.w0 & m0;
  if (base.isIpv4) {
    return (address) => (address.w0 & m0) === v0 && address.isIpv4;
  }
  const v1 = base.w1 & m1;
  const v2 = base.w2 & m2;
  const v3 = base.w3 & m3;
  return (address) => (address.w0 & m0) === v0 && (address.w1 & m1) === v1 && (address.w2 & m2) === v2 && (address.w3 & m3) === v3 && !address.isIpv4;
}

/** Says whether an address stands for many: multicast, or the broadcast to everyone. */
export function isMany(address: Address): boolean {
  return address.isIpv4 ? address.w0 === -1 || (address.w0 >>> 28) === 0xe : (address.w0 >>> 24) === 0xff;
}
