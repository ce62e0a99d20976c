import { inputError } from '../../agent/protocol/errors.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { isIpv4, parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Endpoint, IpAddress, NamespaceId, PortNumber } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { FlowProtocol, PacketFlow } from '../../agent/protocol/trace.ts';
import type { PacketDraft, TransportDraft } from '../netfilter/packetDraft.ts';

const MAX_TEXT = 1_000;
const GRAMMAR = 'PROTOCOL [SOURCE[:PORT] >] DESTINATION[:PORT] (in DEVICE [out DEVICE] | out) [uid N] [gid N] [mac M] [flags F,…] [type N] [code N] [ttl N] [tos N] [length N]';

/** The source port of packets that arrive where none is given. */
const DEFAULT_PORT = 40_000;

/** IP protocols by name whose packets have no model of their own (RFC 790 and its successors). */
const PROTOCOL_NUMBERS: Readonly<Record<string, number>> = { igmp: 2, ipip: 4, gre: 47, esp: 50, ah: 51, sctp: 132, udplite: 136, dccp: 33 };
const NAMED_PROTOCOLS: ReadonlyMap<number, FlowProtocol> = new Map([[1, 'icmp'], [6, 'tcp'], [17, 'udp'], [58, 'icmpv6']]);
/** Those of them that begin with two ports. */
const PROTOCOLS_WITH_PORTS: ReadonlySet<FlowProtocol> = new Set(['tcp', 'udp', 132, 136, 33]);

const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'] as const;

const OPTION_NAMES: ReadonlySet<string> = new Set(['in', 'out', 'uid', 'gid', 'mac', 'flags', 'type', 'code', 'ttl', 'tos', 'length']);

/** A flow as somebody wrote it, for one network namespace. */
export interface PacketFlowText {
  readonly flow: PacketFlow;
  /** The device that it is meant to leave by; a world that is made for it has one. Null where none was named. */
  readonly outDevice: string | null;
  /** One packet of just this form, instead of a whole conversation; null for a conversation. */
  readonly packet: PacketDraft | null;
}

/**
 * Reads a flow as people write it, for one network namespace:
 *
 *     flow      = protocol [ end ">" ] end { option }
 *     protocol  = "tcp" | "udp" | "icmp" | "icmpv6" | "sctp" | NUMBER
 *     end       = ADDRESS [ ":" PORT ] | "[" IPV6 "]" [ ":" PORT ]
 *     option    = "in" DEVICE | "out" [ DEVICE ] | "uid" N | "gid" N | "mac" ADDRESS | "flags" FLAG{,FLAG}
 *               | "type" N | "code" N | "ttl" N | "tos" N | "length" N
 *
 * `in eth0` arrives there; `in eth0 out eth1` is meant to be forwarded; `out` is sent by a local process, user and group 0
 * where none are given (a group that is not given is the user's number). `flags` (`flags ACK`), `type` and the options after
 * it make it one packet instead of a conversation. Examples: `tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0`,
 * `udp > [fd00::53]:53 out uid 1000`. Throws a MeshpathError INPUT_INVALID that names the column, from 1.
 */
export function parsePacketFlow(text: string, namespace: NamespaceId): PacketFlowText {
  if (text.length > MAX_TEXT) {
    throw wrong(1, `the flow has ${text.length} characters`, `at most ${MAX_TEXT}`);
  }
  return new FlowReader(text, namespace).read();
}

interface FlowWord {
  readonly text: string;
  /** From 1. */
  readonly column: number;
}

interface End {
  readonly address: IpAddress;
  readonly port: PortNumber | null;
  readonly word: FlowWord;
}

interface Options {
  inDevice: FlowWord | null;
  isOut: boolean;
  outDevice: FlowWord | null;
  uid: number | null;
  gid: number | null;
  mac: FlowWord | null;
  flags: readonly (typeof TCP_FLAGS)[number][] | null;
  type: number | null;
  code: number | null;
  ttl: number | null;
  tos: number | null;
  length: number | null;
}

class FlowReader {
  readonly #words: readonly FlowWord[];
  readonly #end: number;
  readonly #namespace: NamespaceId;
  #place = 0;

  constructor(text: string, namespace: NamespaceId) {
    this.#words = [...text.matchAll(/>|[^\s>]+/g)].map((match) => ({ text: match[0], column: match.index + 1 }));
    this.#end = text.length + 1;
    this.#namespace = namespace;
  }

  read(): PacketFlowText {
    const protocol = readProtocol(this.#take('a protocol: tcp, udp, icmp, icmpv6 or a number'));
    const first = this.#peek()?.text === '>' ? null : this.#readEnd('the address that it comes from');
    const hasArrow = this.#peek()?.text === '>';
    this.#place += hasArrow ? 1 : 0;
    const source = hasArrow ? first : null;
    const destination = hasArrow || first === null ? this.#readEnd('the address that it goes to') : first;
    checkEnds(protocol, source, destination);
    const options = this.#readOptions();
    return this.#build(protocol, source, destination, options);
  }

  #build(protocol: FlowProtocol, source: End | null, destination: End, options: Options): PacketFlowText {
    const isArrival = options.inDevice !== null;
    const isLocal = options.isOut && !isArrival;
    if (!isArrival && !isLocal) {
      throw wrong(this.#end, 'it is not said where the flow begins', '"in DEVICE" for what arrives there, or "out" for what a local process sends');
    }
    if (isArrival && source === null) {
      throw wrong(destination.word.column, 'what arrives has no source', 'ADDRESS[:PORT] > in front');
    }
    if (isArrival && (options.uid !== null || options.gid !== null)) {
      throw wrong(this.#end, 'what arrives has no local owner', 'a flow without uid and gid, or "out" in the place of "in"');
    }
    if (isLocal && options.mac !== null) {
      throw wrong(options.mac.column, 'what a local process sends has no link address to come from', 'mac only with in');
    }
    const uid = options.uid ?? 0;
    const hasPorts = PROTOCOLS_WITH_PORTS.has(protocol);
    const sourcePort = source?.port ?? (isArrival && hasPorts ? toPortNumber(DEFAULT_PORT) : null);
    const flow: PacketFlow = {
      protocol,
      from: options.inDevice === null
        ? { kind: 'process', namespace: this.#namespace, uid, gid: options.gid ?? uid }
        : { kind: 'arrival', namespace: this.#namespace, device: options.inDevice.text, macAddress: options.mac?.text.toLowerCase() ?? null },
      source: { address: source?.address ?? null, port: sourcePort },
      destination: { address: destination.address, port: destination.port ?? toPortNumber(0) },
    };
    return { flow, outDevice: options.outDevice?.text ?? null, packet: this.#buildPacket(flow, options) };
  }

  /** One packet where something was said that only one packet has. */
  #buildPacket(flow: PacketFlow, options: Options): PacketDraft | null {
    const { flags, type, code, ttl, tos, length, mac } = options;
    if ([flags, type, code, ttl, tos, length].every((option) => option === null)) {
      return null;
    }
    if (flow.source.address === null) {
      throw wrong(this.#end, 'a single packet has no source', 'ADDRESS[:PORT] > in front, since no socket chooses it');
    }
    if (flags !== null && flow.protocol !== 'tcp') {
      throw wrong(this.#end, 'only TCP has flags', 'flags only with tcp');
    }
    if ((type !== null || code !== null) && flow.protocol !== 'icmp' && flow.protocol !== 'icmpv6') {
      throw wrong(this.#end, 'only ICMP has types and codes', 'type and code only with icmp and icmpv6');
    }
    return {
      source: flow.source.address,
      destination: flow.destination.address,
      transport: buildTransport(flow, options),
      ...(ttl === null ? {} : { ttl }),
      ...(tos === null ? {} : { tos }),
      ...(length === null ? {} : { payload: length }),
      ...(mac === null ? {} : { macSource: mac.text.toLowerCase() }),
    };
  }

  #readOptions(): Options {
    const options: Options = { inDevice: null, isOut: false, outDevice: null, uid: null, gid: null, mac: null, flags: null, type: null, code: null, ttl: null, tos: null, length: null };
    const seen = new Set<string>();
    for (let word = this.#peek(); word !== undefined; word = this.#peek()) {
      this.#place += 1;
      if (seen.has(word.text)) {
        throw wrong(word.column, `'${word.text}' stands here for the second time`, 'every option once');
      }
      seen.add(word.text);
      this.#readOption(word, options);
    }
    return options;
  }

  #readOption(word: FlowWord, options: Options): void {
    switch (word.text) {
      case 'in':
        options.inDevice = this.#readDevice();
        return;
      case 'out': {
        options.isOut = true;
        const next = this.#peek();
        options.outDevice = next === undefined || OPTION_NAMES.has(next.text) ? null : this.#readDevice();
        return;
      }
      case 'uid':
      case 'gid':
        options[word.text] = this.#readNumber(word.text, 0xffff_ffff);
        return;
      case 'type':
      case 'code':
      case 'ttl':
      case 'tos':
        options[word.text] = this.#readNumber(word.text, 255);
        return;
      case 'length':
        options.length = this.#readNumber('length', 65_000);
        return;
      case 'mac':
        options.mac = this.#readMac();
        return;
      case 'flags':
        options.flags = this.#readFlags();
        return;
      default:
        throw wrong(word.column, `'${word.text}' is no option`, `one of ${[...OPTION_NAMES].join(', ')}`);
    }
  }

  #readEnd(expected: string): End {
    const word = this.#take(expected);
    const match = /^(?:\[([^\]]*)\]|([^[\]]*?))(?::(\d+))?$/.exec(word.text);
    const whole = parseIpAddress(word.text);
    const address = whole ?? parseIpAddress(match?.[1] ?? match?.[2] ?? '');
    if (address === undefined) {
      throw wrong(word.column, `'${word.text}' is no address`, `${expected}, such as 10.1.0.2:4000 or [fd00::2]:4000`);
    }
    const portText = whole === undefined ? match?.[3] : undefined;
    if (portText !== undefined && (portText.length > 5 || Number(portText) > 65_535)) {
      throw wrong(word.column + word.text.length - portText.length, `${portText} is no port`, 'a number from 0 to 65535');
    }
    return { address, port: portText === undefined ? null : toPortNumber(Number(portText)), word };
  }

  #readDevice(): FlowWord {
    const word = this.#take('the name of a network device');
    if (!/^[^\s/]{1,15}$/.test(word.text)) {
      throw wrong(word.column, `'${word.text}' cannot be the name of a network device`, 'at most 15 characters without a slash');
    }
    return word;
  }

  #readNumber(name: string, max: number): number {
    const word = this.#take(`a number after ${name}`);
    if (!/^\d{1,10}$/.test(word.text) || Number(word.text) > max) {
      throw wrong(word.column, `'${word.text}' is no ${name}`, `a number from 0 to ${max}`);
    }
    return Number(word.text);
  }

  #readMac(): FlowWord {
    const word = this.#take('a link address after mac');
    if (!/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i.test(word.text)) {
      throw wrong(word.column, `'${word.text}' is no link address`, 'six bytes such as 02:00:00:00:00:01');
    }
    return word;
  }

  #readFlags(): Options['flags'] {
    const word = this.#take('TCP flags after flags');
    if (word.text.toUpperCase() === 'NONE') {
      return [];
    }
    const names = word.text.toUpperCase().split(',', 9);
    const flags = TCP_FLAGS.filter((flag) => names.includes(flag));
    if (flags.length !== names.length) {
      throw wrong(word.column, `'${word.text}' are no TCP flags`, `a list of ${TCP_FLAGS.join(', ')} with commas between them, or NONE`);
    }
    return flags;
  }

  #peek(): FlowWord | undefined {
    return this.#words[this.#place];
  }

  #take(expected: string): FlowWord {
    const word = this.#words[this.#place];
    if (word === undefined) {
      throw wrong(this.#end, 'the flow ends here', expected);
    }
    this.#place += 1;
    return word;
  }
}

function readProtocol(word: FlowWord): FlowProtocol {
  const name = word.text.toLowerCase();
  if (name === 'tcp' || name === 'udp' || name === 'icmp' || name === 'icmpv6') {
    return name;
  }
  if (Object.hasOwn(PROTOCOL_NUMBERS, name)) {
    return PROTOCOL_NUMBERS[name] ?? 0;
  }
  const number = /^\d{1,3}$/.test(name) ? Number(name) : Number.NaN;
  if (!(number <= 255)) {
    throw wrong(word.column, `'${word.text}' is no protocol`, `tcp, udp, icmp, icmpv6, ${Object.keys(PROTOCOL_NUMBERS).join(', ')} or a number from 0 to 255`);
  }
  return NAMED_PROTOCOLS.get(number) ?? number;
}

function checkEnds(protocol: FlowProtocol, source: End | null, destination: End): void {
  const ofIpv4 = isIpv4(destination.address);
  if (source !== null && isIpv4(source.address) !== ofIpv4) {
    throw wrong(destination.word.column, 'the ends are of different families', 'two IPv4 or two IPv6 addresses');
  }
  if ((protocol === 'icmp' && !ofIpv4) || (protocol === 'icmpv6' && ofIpv4)) {
    throw wrong(destination.word.column, `${protocol} is not spoken over ${ofIpv4 ? 'IPv4' : 'IPv6'}`, ofIpv4 ? 'icmp, or IPv6 addresses' : 'icmpv6, or IPv4 addresses');
  }
  if (PROTOCOLS_WITH_PORTS.has(protocol)) {
    if (destination.port === null) {
      throw wrong(destination.word.column, `'${destination.word.text}' has no port`, 'ADDRESS:PORT');
    }
    return;
  }
  const withPort = [destination, source].find((end) => end !== null && end.port !== null);
  if (withPort !== undefined && withPort !== null && !(withPort === source && (protocol === 'icmp' || protocol === 'icmpv6'))) {
    throw wrong(withPort.word.column, `${String(protocol)} has no ports`, 'an address alone');
  }
}

function buildTransport({ protocol, source, destination }: PacketFlow, { flags, type, code }: Options): TransportDraft {
  const sourcePort = source.port ?? toPortNumber(DEFAULT_PORT);
  switch (protocol) {
    case 'tcp':
      return { kind: 'tcp', sourcePort, destinationPort: destination.port, flags: flags ?? ['SYN'] };
    case 'udp':
      return { kind: 'udp', sourcePort, destinationPort: destination.port };
    case 'icmp':
    case 'icmpv6':
      return { kind: 'icmp', type: type ?? (protocol === 'icmp' ? 8 : 128), code: code ?? 0, identifier: source.port ?? 1 };
    default:
      return PROTOCOLS_WITH_PORTS.has(protocol) ? { kind: 'other', protocol, sourcePort, destinationPort: destination.port } : { kind: 'other', protocol };
  }
}

/** Writes a flow as parsePacketFlow reads it. */
export function formatPacketFlow({ protocol, from, source, destination }: PacketFlow): string {
  const hasPorts = PROTOCOLS_WITH_PORTS.has(protocol);
  const address = ({ address: text, port }: Endpoint): string => (hasPorts ? `${text.includes(':') ? `[${text}]` : text}:${port}` : text);
  const origin = source.address === null ? '' : `${source.port === null || !hasPorts ? source.address : address({ address: source.address, port: source.port })} > `;
  const where = from.kind === 'arrival' ? `in ${from.device}` : `out uid ${from.uid}${from.gid === null ? '' : ` gid ${from.gid}`}`;
  return `${String(protocol)} ${origin}${address(destination)} ${where}`;
}

function wrong(column: number, found: string, expected: string): MeshpathError {
  return inputError('The flow cannot be read.', `At column ${column}: ${found}. Expected: ${expected}.`, `Write it as ${GRAMMAR}.`);
}
