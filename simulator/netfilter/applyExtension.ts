import { Address } from './address.ts';
import type { TargetEffect } from './applyTarget.ts';
import { applyNotrack, end, noted } from './applyTarget.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import type { ConnectionView, Packet } from './packet.ts';
import { TCP_FLAG_BITS, TCP_OPTION_LENGTHS } from './packet.ts';
import { PROTOCOL } from './protocolNumbers.ts';
import type { ExtensionOption, Target } from './ruleSet.ts';

type ExtensionTarget = Extract<Target, { kind: 'extension' }>;

/** Targets that tell somebody or note something that no other rule asks for: the packet goes on. */
const NOTING: ReadonlySet<string> = new Set(['AUDIT', 'CHECKSUM', 'CLASSIFY', 'CONNSECMARK', 'IDLETIMER', 'LED', 'NFLOG', 'RATEEST', 'SECMARK', 'TEE', 'TRACE', 'ULOG', 'LOG']);

/** Applies a target that has no kind of its own in the model of rule sets. */
export function applyExtension(target: ExtensionTarget, text: string, packet: Packet, environment: MatchEnvironment): TargetEffect {
  switch (target.name) {
    case 'TTL':
    case 'HL':
      return changeTtl(target, packet);
    case 'DSCP':
    case 'TOS':
      return changeTos(target, text, packet);
    case 'ECN':
      return removeEcn(target, text, packet);
    case 'TCPMSS':
      return changeMss(target, text, packet, environment);
    case 'TCPOPTSTRIP':
      return stripOptions(target, text, packet);
    case 'CT':
      return applyConntrack(target, text, packet);
    case 'NETMAP':
    case 'DNAT':
      return end({ kind: 'nat', target }, { kind: 'rewrite', target: text }, `${text} applies.`);
    case 'NFQUEUE':
    case 'QUEUE':
      return unknown(`the program that reads the queue of '${text}'`, text);
    case 'SET':
      return changeSets(target, packet, environment);
    default:
      return NOTING.has(target.name) ? noted(target.name, null) : unknown(`what '${text}' does`, text);
  }
}

function unknown(dependsOn: string, text: string): TargetEffect {
  return end({ kind: 'unknown', dependsOn }, { kind: 'unknown', dependsOn: text }, `It depends on ${dependsOn}.`);
}

/** net/netfilter/xt_set.c, set_target_v3. */
function changeSets({ options }: ExtensionTarget, packet: Packet, environment: MatchEnvironment): TargetEffect {
  const overwrites = options.some(({ name }) => name === 'exist');
  const names: string[] = [];
  for (const { name, value } of options) {
    if (value.type === 'set' && (name === 'add-set' || name === 'del-set')) {
      environment.changeSet(value.name, packet, value.directions, name === 'add-set' ? 'add' : 'remove', overwrites);
      names.push(value.name);
    }
  }
  return noted('SET', names.length === 0 ? null : `the set ${names.join(', ')} may change`);
}

/** net/netfilter/xt_HL.c. */
function changeTtl({ name, options }: ExtensionTarget, packet: Packet): TargetEffect {
  const [option] = options;
  const value = option?.value.type === 'number' ? option.value.value : 0;
  const action = option?.name.split('-')[1];
  const before = packet.ttl;
  packet.ttl = action === 'set' ? value : action === 'inc' ? Math.min(255, before + value) : Math.max(0, before - value);
  return noted(name, packet.ttl === before ? null : `${name === 'TTL' ? 'the TTL' : 'the hop limit'} is now ${packet.ttl}`);
}

/** net/netfilter/xt_DSCP.c: DSCP sets the upper six bits, TOS what its mask says. */
function changeTos({ name, options }: ExtensionTarget, text: string, packet: Packet): TargetEffect {
  const value = options[0]?.value;
  const before = packet.tos;
  if (value?.type === 'number') {
    packet.tos = (before & 3) | (value.value << 2);
  } else if (value?.type === 'masked') {
    packet.tos = ((before & ~value.mask) ^ value.value) & 0xff;
  } else {
    return unknown(`what '${text}' does`, text);
  }
  return noted(name, packet.tos === before ? null : `the type of service is now 0x${packet.tos.toString(16)}`);
}

/** net/ipv4/netfilter/ipt_ECN.c. */
function removeEcn({ options }: ExtensionTarget, text: string, packet: Packet): TargetEffect {
  const only = options.length === 1 ? options[0]?.name : undefined;
  if (only !== 'ecn-tcp-remove' || packet.protocol !== PROTOCOL.tcp) {
    return unknown(`what '${text}' does`, text);
  }
  packet.tcpFlags &= ~(TCP_FLAG_BITS.ECE | TCP_FLAG_BITS.CWR);
  return noted('ECN', 'the packet offers no ECN any more');
}

/** The headers of IP and of TCP without options, and what a segment has where nothing is told (TCP_MIN_MSS; RFC 9293, 3.7.1). */
const TCP_HEADERS = { ipv4: { bytes: 40, untold: 536 }, ipv6: { bytes: 60, untold: 1220 } } as const;
const GREATEST_SEGMENT = 2;

/** net/netfilter/xt_TCPMSS.c, tcpmss_mangle_packet: never greater than it was; a SYN without the option gets one, unless it carries data. */
function changeMss({ options }: ExtensionTarget, text: string, packet: Packet, environment: MatchEnvironment): TargetEffect {
  const { bytes, untold } = TCP_HEADERS[packet.isIpv4 ? 'ipv4' : 'ipv6'];
  const isClamped = options.some(({ name }) => name === 'clamp-mss-to-pmtu');
  const mtu = isClamped ? environment.pathMtu(packet) : null;
  const wanted = isClamped ? (mtu === null ? undefined : mtu - bytes) : numberOf(options, 'set-mss');
  if (wanted === undefined) {
    return unknown(`what '${text}' does`, text);
  }
  if (packet.fragmentOffset > 0 || (packet.tcpFlags & TCP_FLAG_BITS.SYN) === 0 || wanted <= 0 || (packet.mss === null ? packet.payload > 0 : packet.mss <= wanted)) {
    return noted('TCPMSS', null);
  }
  if (packet.mss === null) {
    packet.tcpOptions = [GREATEST_SEGMENT, ...packet.tcpOptions];
  }
  packet.mss = packet.mss === null ? Math.min(wanted, untold) : wanted;
  return noted('TCPMSS', `the segments may have ${packet.mss} bytes`);
}

const NO_OPERATION = 1;

/** net/netfilter/xt_TCPOPTSTRIP.c: options become as many bytes of no operation. */
function stripOptions({ options }: ExtensionTarget, text: string, packet: Packet): TargetEffect {
  const value = options.find(({ name }) => name === 'strip-options')?.value;
  if (value?.type !== 'numbers') {
    return unknown(`what '${text}' does`, text);
  }
  const stripped = value.numbers;
  const found = packet.tcpOptions.filter((option) => stripped.includes(option));
  if (packet.protocol !== PROTOCOL.tcp || found.length === 0) {
    return noted('TCPOPTSTRIP', null);
  }
  packet.tcpOptions = packet.tcpOptions.flatMap((option) => (stripped.includes(option) ? Array.from({ length: TCP_OPTION_LENGTHS[option] ?? 2 }, () => NO_OPERATION) : [option]));
  packet.mss = found.includes(GREATEST_SEGMENT) ? null : packet.mss;
  return noted('TCPOPTSTRIP', `the TCP options ${found.join(', ')} are gone`);
}

/** net/netfilter/xt_CT.c: what has a connection already keeps it. */
function applyConntrack({ options }: ExtensionTarget, text: string, packet: Packet): TargetEffect {
  if (options.some(({ name }) => name === 'notrack')) {
    return applyNotrack(packet);
  }
  if (packet.tracking !== null || packet.untracked || packet.isAttached || packet.zoneRule !== null) {
    return noted('CT', null);
  }
  const zone = options.find(({ name }) => name.startsWith('zone'));
  const name = options.find((option) => option.name === 'helper')?.text ?? null;
  const helper = name === null ? {} : { helper: name };
  if (zone !== undefined) {
    const id = zone.value.type === 'number' ? zone.value.value : zone.text === 'mark' ? packet.mark & 0xffff : undefined;
    if (id === undefined) {
      return unknown(`what '${text}' does`, text);
    }
    packet.zoneRule = { id, directions: zone.name === 'zone' ? 'both' : zone.name === 'zone-orig' ? 'original' : 'reply', ...helper };
    packet.tracking = { connection: templateOf(id, packet.isIpv4), isReply: false, state: 'NEW' };
    return noted('CT', `conntrack will look in zone ${id}`);
  }
  // Whatever else it asks for comes with a template as well: a later NOTRACK then does nothing.
  packet.zoneRule = { id: 0, directions: 'both', ...helper };
  packet.tracking = { connection: templateOf(0, packet.isIpv4), isReply: false, state: 'NEW' };
  return noted('CT', null);
}

/** What the rules of table raw see as the connection until conntrack looks (nf_conntrack_core.c, nf_ct_tmpl_alloc). */
function templateOf(zone: number, isIpv4: boolean): ConnectionView {
  const nowhere = isIpv4 ? Address.ofIpv4(0) : Address.ofIpv6(0, 0, 0, 0);
  const tuple = { protocol: 0, source: nowhere, sourcePort: 0, destination: nowhere, destinationPort: 0 };
  return { mark: 0, zone, original: tuple, reply: tuple, seenReply: false, assured: false, confirmed: true, sourceTranslated: false, destinationTranslated: false, packets: [0, 0], bytes: [0, 0], isOld: false };
}

function numberOf(options: readonly ExtensionOption[], name: string): number | undefined {
  const value = options.find((option) => option.name === name)?.value;
  return value?.type === 'number' ? value.value : undefined;
}
