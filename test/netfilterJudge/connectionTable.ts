import { formatIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Attributes } from './netlink.ts';
import { NLA_F_NESTED, NLM_F_ACK, NetlinkError, NetlinkSocket, encodeAttribute, readAttributes, readNumber } from './netlink.ts';

/** The connections that conntrack keeps, by ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h). */

const IPCTNL_MSG_CT_GET = (1 << 8) | 1;
const IPCTNL_MSG_CT_DELETE = (1 << 8) | 2;
const ENOENT = 2;
/** NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY */
const EVENT_GROUPS = [1, 2, 3];
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_STATUS = 3;
const CTA_PROTOINFO = 4;
const CTA_MARK = 8;
const CTA_ID = 12;
const CTA_ZONE = 18;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_TUPLE_ZONE = 3;
const SEEN_REPLY = 2;
const ASSURED = 4;
const TCP_STATES = ['NONE', 'SYN_SENT', 'SYN_RECV', 'ESTABLISHED', 'FIN_WAIT', 'CLOSE_WAIT', 'LAST_ACK', 'TIME_WAIT', 'CLOSE', 'SYN_SENT2'] as const;
const PROTOCOLS: Readonly<Record<number, string>> = { 6: 'tcp', 17: 'udp', 1: 'icmp', 58: 'icmp' };

/** One end of a tuple: the port is null where the protocol has none; ICMP has its identifier. */
export interface TupleText {
  readonly source: string;
  readonly destination: string;
}

/** What a connection is, the same for kernel and simulator. */
export interface ConnectionFacts {
  readonly protocol: string;
  readonly original: TupleText;
  readonly reply: TupleText;
  readonly mark: number;
  readonly zone: number;
  readonly seenReply: boolean;
  readonly assured: boolean;
  /** TCP only. */
  readonly state: string | null;
}

/** Writes a connection in one line. */
export function writeConnection({ protocol, original, reply, mark, zone, seenReply, assured, state }: ConnectionFacts): string {
  const notes = [mark === 0 ? '' : `mark ${mark}`, zone === 0 ? '' : `zone ${zone}`, state ?? '', seenReply ? 'seen-reply' : '', assured ? 'assured' : ''];
  return [`${protocol} ${original.source}>${original.destination} / ${reply.source}>${reply.destination}`, ...notes.filter((note) => note !== '')].join(' ');
}

/** What asks for one connection. */
interface KnownConnection {
  readonly family: number;
  readonly question: Buffer;
}

/**
 * The table of the namespace of the calling thread. To list it costs ten milliseconds, since the kernel walks the buckets of
 * all namespaces: events tell which connections there are, and each is asked for. Events alone do not do: what a packet
 * changes is told only when it is confirmed, and one that is dropped never is (nf_conntrack_ecache.c).
 */
export class ConnectionTable {
  readonly #events = new NetlinkSocket(EVENT_GROUPS);
  readonly #requests = new NetlinkSocket();
  readonly #known = new Map<string, KnownConnection>();

  /** Gives the connections as they are now, in the order in which they began. */
  read(): readonly ConnectionFacts[] {
    for (const { type, family, attributes } of this.#events.receive()) {
      const id = attributes.get(CTA_ID)?.toString('hex') ?? '';
      if (type === IPCTNL_MSG_CT_DELETE) {
        this.#known.delete(id);
      } else if (!this.#known.has(id)) {
        const zone = attributes.get(CTA_ZONE);
        const tuple = encodeAttribute(CTA_TUPLE_ORIG | NLA_F_NESTED, attributes.get(CTA_TUPLE_ORIG) ?? Buffer.alloc(0));
        this.#known.set(id, { family, question: zone === undefined ? tuple : Buffer.concat([tuple, encodeAttribute(CTA_ZONE, zone)]) });
      }
    }
    return [...this.#known.values()].map((known) => this.#ask(known)).filter((facts) => facts !== undefined);
  }

  dispose(): void {
    this.#events.dispose();
    this.#requests.dispose();
  }

  #ask({ family, question }: KnownConnection): ConnectionFacts | undefined {
    try {
      const [answer] = this.#requests.request(IPCTNL_MSG_CT_GET, NLM_F_ACK, family, question);
      return answer === undefined ? undefined : readConnection(answer.attributes);
    } catch (error) {
      if (error instanceof NetlinkError && error.errno === ENOENT) {
        return undefined;
      }
      throw error;
    }
  }
}

function readConnection(attributes: Attributes): ConnectionFacts {
  const original = nested(attributes, CTA_TUPLE_ORIG);
  const reply = nested(attributes, CTA_TUPLE_REPLY);
  const number = nested(original, CTA_TUPLE_PROTO).get(1)?.readUInt8(0) ?? 0;
  const status = readNumber(attributes, CTA_STATUS) ?? 0;
  const state = nested(nested(attributes, CTA_PROTOINFO), 1).get(1)?.readUInt8(0);
  const zones = [attributes.get(CTA_ZONE), original.get(CTA_TUPLE_ZONE), reply.get(CTA_TUPLE_ZONE)];
  return {
    protocol: PROTOCOLS[number] ?? String(number),
    original: readTuple(original),
    reply: readTuple(reply),
    mark: readNumber(attributes, CTA_MARK) ?? 0,
    zone: zones.find((zone) => zone !== undefined)?.readUInt16BE(0) ?? 0,
    seenReply: (status & SEEN_REPLY) !== 0,
    assured: (status & ASSURED) !== 0,
    state: number === 6 && state !== undefined ? (TCP_STATES[state] ?? String(state)) : null,
  };
}

function readTuple(tuple: Attributes): TupleText {
  const addresses = nested(tuple, CTA_TUPLE_IP);
  const protocol = nested(tuple, CTA_TUPLE_PROTO);
  const address = (v4: number, v6: number): string => {
    const bytes = addresses.get(v4) ?? addresses.get(v6);
    return bytes === undefined ? '?' : formatIpAddress(bytes);
  };
  const identifier = protocol.get(4) ?? protocol.get(7);
  if (identifier !== undefined) {
    const kind = `${String((protocol.get(5) ?? protocol.get(8))?.readUInt8(0))}/${String((protocol.get(6) ?? protocol.get(9))?.readUInt8(0))}`;
    return { source: `${address(1, 3)}:${identifier.readUInt16BE(0)}`, destination: `${address(2, 4)}:${kind}` };
  }
  const port = (type: number): string => `:${protocol.get(type)?.readUInt16BE(0) ?? 0}`;
  return { source: `${address(1, 3)}${port(2)}`, destination: `${address(2, 4)}${port(3)}` };
}

function nested(attributes: Attributes, type: number): Attributes {
  const value = attributes.get(type);
  return value === undefined ? new Map() : readAttributes(value);
}
