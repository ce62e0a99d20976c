import { isIpv4, parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import { inputError } from '../../agent/protocol/errors.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import type { RuleFamily } from './meshRules.ts';

/** How many entries a list of an option may have. */
const MAX_ENTRIES = 4_096;
const MAX_UINT32 = 0xffff_ffff;

/** An option of a mesh's own tool, by the name that it has there. */
export interface MeshOption {
  readonly name: string;
  readonly short?: string;
  readonly type: 'boolean' | 'string';
  readonly multiple?: boolean;
  /** How help calls the value: `PORT`. */
  readonly valueName?: string;
  readonly description: string;
}

/** What was given for the options of a tool. */
export interface OptionValues {
  /** Says whether a boolean option was given. */
  flag(name: string): boolean;
  /** Gives the value of an option, as text; undefined where it was left out. */
  text(name: string): string | undefined;
  /** Gives the values of an option that may be repeated. */
  texts(name: string): readonly string[];
}

/** A network as the tools write it, with its host bits. */
export interface AddressRange {
  readonly family: RuleFamily;
  readonly address: IpAddress;
  /** `10.0.0.1/8`, or an address alone where that was given. */
  readonly text: string;
}

/** Reads a port of an option; throws a MeshpathError INPUT_INVALID unless it is from 1 to 65535. */
export function readPort(option: string, text: string): number {
  return readWhole(option, text.trim(), 1, 65_535, 'a port from 1 to 65535');
}

/** Reads a comma list of ports; empty entries are skipped. */
export function readPorts(option: string, text: string): readonly number[] {
  return splitList(option, text).map((entry) => readPort(option, entry));
}

/** Reads a mark, or another whole number of 32 bits, in decimal. */
export function readUint32(option: string, text: string): number {
  return readWhole(option, text, 0, MAX_UINT32, 'a whole number of 32 bits');
}

/** Reads a comma list of numeric ids; with `names`, of names of users or groups too, which iptables looks up when it loads the rules. */
export function readOwners(option: string, text: string, { names }: { readonly names: boolean }): readonly string[] {
  return splitList(option, text).map((entry) => {
    if (/^\d{1,10}$/.test(entry) && Number(entry) <= MAX_UINT32) {
      return String(Number(entry));
    }
    if (names && /^[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?$/.test(entry)) {
      return entry;
    }
    throw optionError(option, entry, names ? 'the number or name of a user or group' : 'the number of a user or group');
  });
}

/** Reads a comma list of network interfaces; a `+` at the end stands for all that begin so. */
export function readInterfaces(option: string, text: string): readonly string[] {
  return splitList(option, text).map((entry) => readInterface(option, entry));
}

/** Reads the name of a network interface: 1 to 15 characters, none of them a slash, a quote or white space. */
export function readInterface(option: string, text: string): string {
  if (!/^[A-Za-z0-9_.@:-]{1,15}$|^[A-Za-z0-9_.@:-]{0,14}\+$/.test(text)) {
    throw optionError(option, text, 'the name of a network interface');
  }
  return text;
}

/** Reads a comma list of networks with their lengths, `10.0.0.0/8,fd00::/8`. */
export function readRanges(option: string, text: string): readonly AddressRange[] {
  return splitList(option, text).map((entry) => readRange(option, entry, { length: 'required' }));
}

/** Reads a network, where `length` is optional an address alone too. Host bits stay: iptables clears them. */
export function readRange(option: string, text: string, { length }: { readonly length: 'required' | 'optional' }): AddressRange {
  const slash = text.indexOf('/');
  const address = parseIpAddress(slash < 0 ? text : text.slice(0, slash));
  const lengthText = slash < 0 ? null : text.slice(slash + 1);
  const isLengthWrong = lengthText === null ? length === 'required' : !/^(?:0|[1-9]\d{0,2})$/.test(lengthText);
  if (address === undefined || isLengthWrong || Number(lengthText) > (isIpv4(address) ? 32 : 128)) {
    throw optionError(option, text, length === 'required' ? 'a network such as 10.0.0.0/8 or fd00::/8' : 'an address or a network such as 10.0.0.0/8');
  }
  return { family: isIpv4(address) ? 'ipv4' : 'ipv6', address, text: lengthText === null ? address : `${address}/${lengthText}` };
}

/** Reads a comma list of addresses; their text stays as it was written. */
export function readAddresses(option: string, text: string): readonly AddressRange[] {
  return splitList(option, text).map((entry) => {
    const address = parseIpAddress(entry) ?? fail(optionError(option, entry, 'an IP address'));
    return { family: isIpv4(address) ? 'ipv4' : 'ipv6', address, text: entry };
  });
}

/** Reads one of a few words. */
export function readChoice<Choice extends string>(option: string, text: string, choices: readonly Choice[]): Choice {
  return choices.find((choice) => choice === text) ?? fail(optionError(option, text, `one of ${choices.join(', ')}`));
}

/** Says whether an address is of the loopback networks 127.0.0.0/8 and ::1. */
export function isLoopbackAddress(address: IpAddress): boolean {
  return isIpv4(address) ? address.startsWith('127.') : address === '::1';
}

/** Splits a comma list; white space around entries and empty entries do not count. */
export function splitList(option: string, text: string): readonly string[] {
  const entries = text.split(',', MAX_ENTRIES + 1);
  if (entries.length > MAX_ENTRIES) {
    throw optionError(option, text, `a list of at most ${MAX_ENTRIES} entries`);
  }
  return entries.map((entry) => entry.trim()).filter((entry) => entry !== '');
}

/** The error for a value that is not what an option takes. */
export function optionError(option: string, text: string, expected: string): MeshpathError {
  const shown = JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
  return inputError(`--${option} was given something that it does not take.`, `${shown} is not ${expected}.`, `Give --${option} ${expected}.`);
}

function readWhole(option: string, text: string, min: number, max: number, expected: string): number {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  return value >= min && value <= max ? value : fail(optionError(option, text, expected));
}

function fail(error: MeshpathError): never {
  throw error;
}
