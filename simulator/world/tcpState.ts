import { TCP_FLAG_BITS } from '../netfilter/packet.ts';

/** The states of a TCP connection in conntrack (include/uapi/linux/netfilter/nf_conntrack_tcp.h). */
export type TcpState = 'SYN_SENT' | 'SYN_RECV' | 'ESTABLISHED' | 'FIN_WAIT' | 'CLOSE_WAIT' | 'LAST_ACK' | 'TIME_WAIT' | 'CLOSE' | 'SYN_SENT2';

type Segment = 'syn' | 'synAck' | 'fin' | 'ack' | 'rst' | 'none';
/** What a segment does in a state: a new state, nothing (`ignore`), or it is not part of the connection (`invalid`). */
export type TcpTransition = TcpState | 'ignore' | 'invalid';

const STATES: readonly TcpState[] = ['SYN_SENT', 'SYN_RECV', 'ESTABLISHED', 'FIN_WAIT', 'CLOSE_WAIT', 'LAST_ACK', 'TIME_WAIT', 'CLOSE', 'SYN_SENT2'];
const SPELLED: Readonly<Record<string, TcpTransition>> = {
  SS: 'SYN_SENT', SR: 'SYN_RECV', ES: 'ESTABLISHED', FW: 'FIN_WAIT', CW: 'CLOSE_WAIT', LA: 'LAST_ACK', TW: 'TIME_WAIT', CL: 'CLOSE', S2: 'SYN_SENT2', IG: 'ignore', IV: 'invalid',
};

/** By segment, a column for each of STATES (net/netfilter/nf_conntrack_proto_tcp.c, tcp_conntracks). */
const ORIGINAL = readTable({
  syn: 'SS IG IG IG IG IG SS SS S2',
  synAck: 'IV SR IV IV IV IV IV IV SR',
  fin: 'IV FW FW LA LA LA TW CL IV',
  ack: 'IV ES ES CW CW TW TW CL IV',
  rst: 'CL CL CL CL CL CL CL CL CL',
  none: 'IV IV IV IV IV IV IV IV IV',
});
const REPLY = readTable({
  syn: 'S2 IV IV IV IV IV SS IV S2',
  synAck: 'SR IG IG IG IG IG IG IG SR',
  fin: 'IV FW FW LA LA LA TW CL IV',
  ack: 'IG SR ES CW CW TW TW CL IG',
  rst: 'CL CL CL CL CL CL CL CL CL',
  none: 'IV IV IV IV IV IV IV IV IV',
});

/** The combinations of flags that a TCP may send, without ECE, CWR and PSH (tcp_valid_flags). */
const VALID_FLAGS: ReadonlySet<number> = new Set(
  ([['SYN'], ['SYN', 'URG'], ['SYN', 'ACK'], ['RST'], ['RST', 'ACK'], ['FIN', 'ACK'], ['FIN', 'ACK', 'URG'], ['ACK'], ['ACK', 'URG']] as const).map((names) =>
    names.reduce<number>((bits, name) => bits | TCP_FLAG_BITS[name], 0),
  ),
);
const UNCHECKED_FLAGS = TCP_FLAG_BITS.ECE | TCP_FLAG_BITS.CWR | TCP_FLAG_BITS.PSH;

/** Says whether conntrack takes a combination of flags for TCP at all. */
export function areFlagsValid(flags: number): boolean {
  return VALID_FLAGS.has(flags & ~UNCHECKED_FLAGS);
}

/** Gives the state that a first segment begins a connection in; undefined where it begins none. */
export function firstTcpState(flags: number, loose: boolean): TcpState | undefined {
  switch (segmentOf(flags)) {
    case 'syn':
      return 'SYN_SENT';
    case 'ack':
      return loose ? 'ESTABLISHED' : undefined;
    default:
      return undefined;
  }
}

/** Gives what a segment does to a connection in a state. Windows are not looked at, as with nf_conntrack_tcp_be_liberal. */
export function nextTcpState(state: TcpState, isReply: boolean, flags: number): TcpTransition {
  return (isReply ? REPLY : ORIGINAL)[segmentOf(flags)][STATES.indexOf(state)] ?? 'invalid';
}

/** Says whether text names a state. */
export function isTcpState(text: string): text is TcpState {
  return (STATES as readonly string[]).includes(text);
}

function segmentOf(flags: number): Segment {
  if ((flags & TCP_FLAG_BITS.RST) !== 0) {
    return 'rst';
  }
  if ((flags & TCP_FLAG_BITS.SYN) !== 0) {
    return (flags & TCP_FLAG_BITS.ACK) !== 0 ? 'synAck' : 'syn';
  }
  if ((flags & TCP_FLAG_BITS.FIN) !== 0) {
    return 'fin';
  }
  return (flags & TCP_FLAG_BITS.ACK) !== 0 ? 'ack' : 'none';
}

function readTable(rows: Readonly<Record<Segment, string>>): Readonly<Record<Segment, readonly TcpTransition[]>> {
  const read = (row: string): readonly TcpTransition[] => row.split(' ').map((word) => SPELLED[word] ?? 'invalid');
  return { syn: read(rows.syn), synAck: read(rows.synAck), fin: read(rows.fin), ack: read(rows.ack), rst: read(rows.rst), none: read(rows.none) };
}
