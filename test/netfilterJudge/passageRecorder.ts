import type { TableName } from '../../agent/protocol/trace.ts';
import type { Backend, JudgeRules, Passage, Visit } from './judgeCase.ts';
import type { BuiltNamespace } from './kernelNetwork.ts';
import type { Attributes, NetlinkMessage } from './netlink.ts';
import { NLM_F_ACK, NLM_F_DUMP, NetlinkSocket, encodeAttribute, readNumber, readText } from './netlink.ts';
import type { PacketDraft } from '../../simulator/netfilter/packetDraft.ts';
import { decodePacket, writeEnds, writePacket } from './packetBytes.ts';

/**
 * The kernel's own account of packets. Both backends trace what carries skb->nf_trace, which the markers of the network
 * set: legacy by nf_log (net/ipv4/netfilter/ip_tables.c, trace_packet), here bound to nfnetlink_log; nft by its own
 * multicast group (net/netfilter/nf_tables_trace.c). The markers log the packet where it enters and leaves netfilter.
 */

const NFNLGRP_NFTRACE = 9;
const NFULNL_MSG_CONFIG = (4 << 8) | 1;
const NFT_MSG_GETRULE = (10 << 8) | 7;
const NFULA_CFG_CMD = 1;
const NFULA_CFG_MODE = 2;
const NFULA_CFG_QTHRESH = 5;
const NFULNL_CFG_CMD_BIND = 1;
const NFULNL_COPY_PACKET = 2;
const COPIED_BYTES = 256;
const NFULA = { packetHeader: 1, mark: 2, inDevice: 4, outDevice: 5, payload: 9, prefix: 10 } as const;
const NFTA_TRACE = { table: 1, chain: 2, ruleHandle: 3, type: 4, id: 6, networkHeader: 8, transportHeader: 9, mark: 14 } as const;
const NFTA_RULE = { table: 1, chain: 2, handle: 3 } as const;
const NFT_TRACETYPE = { policy: 1, return: 2, rule: 3 } as const;
const HOOKS = ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'] as const;
const TABLE_OF_MARKERS = 'judge';

interface OpenPassage {
  readonly namespace: string;
  readonly family: Passage['family'];
  readonly start: Passage['start'];
  readonly visits: Visit[];
  end: Passage['end'];
}

/** Listens to what happens to packets in one namespace. */
export class PassageRecorder {
  readonly #namespace: BuiltNamespace;
  readonly #backend: Backend;
  readonly #log: NetlinkSocket;
  readonly #trace: NetlinkSocket;
  /** nft: the place of each rule in its chain, by ruleKey. legacy: how many rules each chain has, by chainKey. */
  #rules = new Map<string, number>();
  readonly #devices = new Map<number, string>();
  /** nft: what the log has told of packets whose trace has not come yet. */
  readonly #unread: NetlinkMessage[] = [];

  constructor(namespace: BuiltNamespace, backend: Backend, devices: ReadonlyMap<number, string>) {
    this.#namespace = namespace;
    this.#backend = backend;
    this.#devices = new Map(devices);
    [this.#log, this.#trace] = namespace.kernel.run(() => [new NetlinkSocket(), new NetlinkSocket(backend === 'nft' ? [NFNLGRP_NFTRACE] : [])]);
    const mode = Buffer.alloc(6);
    mode.writeUInt32BE(COPIED_BYTES, 0);
    mode[4] = NFULNL_COPY_PACKET;
    for (const attribute of [
      encodeAttribute(NFULA_CFG_CMD, Buffer.of(NFULNL_CFG_CMD_BIND)),
      encodeAttribute(NFULA_CFG_MODE, mode),
      encodeAttribute(NFULA_CFG_QTHRESH, Buffer.of(0, 0, 0, 1)),
    ]) {
      this.#log.request(NFULNL_MSG_CONFIG, NLM_F_ACK, 0, attribute);
    }
  }

  /** To be called after other rules were loaded: which handle is which rule, and how many rules a chain has. */
  learnRules(rules: JudgeRules | undefined): void {
    this.#rules = new Map();
    this.#unread.length = 0;
    if (this.#backend === 'legacy') {
      this.#countRules(2, rules?.ipv4 ?? '');
      this.#countRules(10, rules?.ipv6 ?? '');
      return;
    }
    for (const family of [2, 10]) {
      const counts = new Map<string, number>();
      for (const { attributes } of this.#namespace.netlink.request(NFT_MSG_GETRULE, NLM_F_DUMP, family, Buffer.alloc(0))) {
        const table = readText(attributes, NFTA_RULE.table);
        const chain = `${family} ${table} ${readText(attributes, NFTA_RULE.chain)}`;
        const position = (counts.get(chain) ?? 0) + 1;
        counts.set(chain, position);
        this.#rules.set(ruleKey(family, table, attributes.get(NFTA_RULE.handle)), position);
      }
    }
  }

  /** Takes what was recorded since the last time. */
  take(): { readonly passages: readonly Passage[]; readonly events: number } {
    // The log of a packet is written before its trace is: whatever of the trace is here has its log here too.
    const trace = this.#trace.receive();
    const log = this.#log.receive();
    const passages = this.#backend === 'legacy' ? this.#joinLegacy(log) : this.#joinNft(log, trace);
    return { passages, events: log.length + trace.length };
  }

  #countRules(family: number, text: string): void {
    let table = '';
    for (const line of text.split('\n')) {
      table = /^\*\s*(\w+)/.exec(line)?.[1] ?? table;
      const chain = /^(?:\[\d+:\d+\] )?-[AI] (\S+)/.exec(line)?.[1];
      if (chain !== undefined) {
        const key = chainKey(family, table, chain);
        this.#rules.set(key, (this.#rules.get(key) ?? 0) + 1);
      }
    }
  }

  dispose(): void {
    this.#log.dispose();
    this.#trace.dispose();
  }

  /** One stream in order: what REJECT and the sockets send in answer begins when the packet itself is at its end. */
  #joinLegacy(log: readonly NetlinkMessage[]): readonly Passage[] {
    const passages: OpenPassage[] = [];
    for (const { attributes } of log) {
      const prefix = readText(attributes, NFULA.prefix);
      if (prefix === 'start') {
        passages.push(this.#begin(attributes));
        continue;
      }
      const last = passages.at(-1);
      if (last === undefined) {
        throw new Error(`'${prefix}' of a packet that did not begin`);
      }
      if (prefix === 'end') {
        last.end = this.#end(attributes);
        continue;
      }
      const match = /^TRACE: (\w+):(.+):(rule|return|policy):(\d+) $/.exec(prefix);
      if (match !== null) {
        const [, table = '', chain = '', kind = '', number = ''] = match;
        // A rule without matches is told as if it were the end of its chain; only its number tells it from that.
        const family = isIpv6(attributes) ? 10 : 2;
        const isRule = kind === 'rule' || Number(number) <= (this.#rules.get(chainKey(family, table, chain)) ?? 0);
        const rule = isRule ? Number(number) : kind === 'policy' ? 'policy' : 'return';
        const markBefore = readNumber(attributes, NFULA.mark) ?? 0;
        last.visits.push({ table: table as TableName, chain, rule, markBefore, markAfter: null, ends: endsText(attributes) });
      }
    }
    return passages;
  }

  /** Two streams: the trace tells the rules by the id of the packet, the log what the packet is. */
  #joinNft(log: readonly NetlinkMessage[], trace: readonly NetlinkMessage[]): readonly Passage[] {
    const markers = this.#unread;
    markers.push(...log.filter(({ attributes }) => ['start', 'end'].includes(readText(attributes, NFULA.prefix))));
    const passages: OpenPassage[] = [];
    const byId = new Map<number, OpenPassage>();
    for (const { family, attributes } of trace) {
      const table = readText(attributes, NFTA_TRACE.table);
      const chain = readText(attributes, NFTA_TRACE.chain);
      const type = readNumber(attributes, NFTA_TRACE.type);
      const id = readNumber(attributes, NFTA_TRACE.id) ?? 0;
      if (table === TABLE_OF_MARKERS) {
        if (type !== NFT_TRACETYPE.policy) {
          continue;
        }
        const isStart = chain === 'prerouting' || chain === 'output';
        // Two processors at once may write their logs and traces in different orders: what comes of it does not come again.
        const index = markers.findIndex((one) => (readText(one.attributes, NFULA.prefix) === 'start') === isStart);
        const [marker] = index < 0 ? [] : markers.splice(index, 1);
        if (marker === undefined) {
          continue;
        }
        if (isStart) {
          const passage = this.#begin(marker.attributes);
          passages.push(passage);
          byId.set(id, passage);
        } else {
          const passage = byId.get(id) ?? passages.at(-1);
          if (passage !== undefined) {
            passage.end = this.#end(marker.attributes);
          }
        }
        continue;
      }
      const handle = attributes.get(NFTA_TRACE.ruleHandle);
      const rule = handle === undefined ? (type === NFT_TRACETYPE.policy ? 'policy' : 'return') : (this.#rules.get(ruleKey(traceFamily(attributes, family), table, handle)) ?? -1);
      const passage = byId.get(id) ?? passages.at(-1);
      passage?.visits.push({ table: table as TableName, chain, rule, markBefore: null, markAfter: readNumber(attributes, NFTA_TRACE.mark) ?? 0, ends: null });
    }
    return passages;
  }

  #begin(attributes: Attributes): OpenPassage {
    const hook = hookOf(attributes) === 'OUTPUT' ? 'OUTPUT' : 'PREROUTING';
    const device = hook === 'OUTPUT' ? '' : this.#deviceOf(attributes, NFULA.inDevice);
    const start = { hook, packet: packetText(attributes), device } as const;
    return { namespace: this.#namespace.description.name, family: isIpv6(attributes) ? 'ipv6' : 'ipv4', start, visits: [], end: null };
  }

  #end(attributes: Attributes): NonNullable<Passage['end']> {
    const hook = hookOf(attributes) === 'INPUT' ? 'INPUT' : 'POSTROUTING';
    const device = this.#deviceOf(attributes, hook === 'POSTROUTING' ? NFULA.outDevice : NFULA.inDevice);
    return { hook, packet: packetText(attributes), device };
  }

  #deviceOf(attributes: Attributes, type: number): string {
    const index = readNumber(attributes, type);
    return index === undefined ? '' : (this.#devices.get(index) ?? `device ${index}`);
  }
}

function hookOf(attributes: Attributes): (typeof HOOKS)[number] | undefined {
  return HOOKS[attributes.get(NFULA.packetHeader)?.readUInt8(2) ?? -1];
}

function isIpv6(attributes: Attributes): boolean {
  return (attributes.get(NFULA.payload)?.[0] ?? 0) >> 4 === 6;
}

function packetOf(attributes: Attributes): PacketDraft | undefined {
  const payload = attributes.get(NFULA.payload);
  return payload === undefined ? undefined : decodePacket(payload);
}

function packetText(attributes: Attributes): string {
  const packet = packetOf(attributes);
  return packet === undefined ? `? ${attributes.get(NFULA.payload)?.toString('hex') ?? ''}` : writePacket(packet);
}

function endsText(attributes: Attributes): string | null {
  const packet = packetOf(attributes);
  return packet === undefined ? null : writeEnds(packet);
}

/** NFTA_TRACE_NFPROTO; for tables of one family the header says the same. */
function traceFamily(attributes: Attributes, family: number): number {
  const version = (attributes.get(NFTA_TRACE.networkHeader)?.[0] ?? 0) >> 4;
  return version === 4 ? 2 : version === 6 ? 10 : (readNumber(attributes, 15) ?? family);
}

function chainKey(family: number, table: string, chain: string): string {
  return `${family} ${table} chain ${chain}`;
}

function ruleKey(family: number, table: string, handle: Buffer | undefined): string {
  return `${family} ${table} ${handle?.toString('hex') ?? ''}`;
}
