import { Address } from './address.ts';
import type { TargetEffect } from './applyTarget.ts';
import { applyNotrack, end, noted } from './applyTarget.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import type { ConnectionView, Packet } from './packet.ts';
import { TCP_FLAG_BITS } from './packet.ts';
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
      return changeMss(target, packet);
    case 'TCPOPTSTRIP':
      return noted(target.name, null);
    case 'CT':
      return applyConntrack(target, text, packet);
    case 'NETMAP':
    case 'DNAT':
      return end({ kind: 'nat', target }, { kind: 'rewrite', target: text }, `${text} applies.`);
    case 'NFQUEUE':
    case 'QUEUE':
      return unknown(`the program that reads the queue of '${text}'`, text);
    case 'SET':
      return changeSets(target, environment);
    default:
      return NOTING.has(target.name) ? noted(target.name, null) : unknown(`what '${text}' does`, text);
  }
}

function unknown(dependsOn: string, text: string): TargetEffect {
  return end({ kind: 'unknown', dependsOn }, { kind: 'unknown', dependsOn: text }, `It depends on ${dependsOn}.`);
}

/** What says in the state of a namespace that a rule has changed a set. */
export function changedSetKey(name: string): string {
  return `changed set ${name}`;
}

/** net/netfilter/xt_set.c: what a set has after it is not modelled. */
function changeSets({ options }: ExtensionTarget, environment: MatchEnvironment): TargetEffect {
  const names = options.flatMap(({ value }) => (value.type === 'set' ? [value.name] : []));
  for (const name of names) {
    environment.state.set(changedSetKey(name), true);
  }
  return noted('SET', `the set ${names.join(', ')} may change`);
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

/** net/netfilter/xt_TCPMSS.c: never greater than it was; what the path's MTU allows is not modelled. */
function changeMss({ options }: ExtensionTarget, packet: Packet): TargetEffect {
  const wanted = numberOf(options, 'set-mss');
  if (wanted === undefined || (packet.tcpFlags & TCP_FLAG_BITS.SYN) === 0 || (packet.mss !== null && packet.mss <= wanted)) {
    return noted('TCPMSS', null);
  }
  packet.mss = wanted;
  return noted('TCPMSS', `the segments may have ${wanted} bytes`);
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
  if (zone !== undefined) {
    const id = zone.value.type === 'number' ? zone.value.value : zone.text === 'mark' ? packet.mark & 0xffff : undefined;
    if (id === undefined) {
      return unknown(`what '${text}' does`, text);
    }
    packet.zoneRule = { id, directions: zone.name === 'zone' ? 'both' : zone.name === 'zone-orig' ? 'original' : 'reply' };
    packet.tracking = { connection: templateOf(id, packet.isIpv4), isReply: false, state: 'NEW' };
    return noted('CT', `conntrack will look in zone ${id}`);
  }
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
