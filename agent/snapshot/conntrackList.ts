import { parseIpAddress } from '../protocol/ipAddress.ts';
import type { Endpoint } from '../protocol/scalars.ts';
import { toPortNumber } from '../protocol/scalars.ts';
import type { ConntrackEntry, ConntrackTuple } from '../protocol/snapshot.ts';

const PROTOCOLS: ReadonlySet<string> = new Set(['tcp', 'udp', 'icmp', 'icmpv6']);

/**
 * Parses one line of `conntrack -L -o extended` (conntrack-tools); undefined for a line of another form.
 * `ipv4 2 tcp 6 431999 ESTABLISHED src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… [ASSURED] mark=0 zone=1 use=1`
 */
export function parseConntrackLine(line: string): ConntrackEntry | undefined {
  const words = line.trim().split(/\s+/);
  const protocol = words[2];
  const timeout = words[4];
  if (protocol === undefined || timeout === undefined || !/^ipv[46]$/.test(words[0] ?? '')) {
    return undefined;
  }
  const tuples: Map<string, string>[] = [];
  const rest = new Map<string, string>();
  let state: string | null = null;
  for (const word of words.slice(4)) {
    const equals = word.indexOf('=');
    if (equals < 0) {
      if (state === null && /^[A-Z][A-Z_0-9]*$/.test(word)) {
        state = word;
      }
      continue;
    }
    const name = word.slice(0, equals);
    const value = word.slice(equals + 1);
    if (name === 'src') {
      tuples.push(new Map());
    }
    (['src', 'dst', 'sport', 'dport', 'type', 'code', 'id'].includes(name) ? tuples.at(-1) : rest)?.set(name, value);
  }
  const original = readTuple(tuples[0]);
  const reply = readTuple(tuples[1]);
  if (original === undefined || reply === undefined) {
    return undefined;
  }
  return {
    protocol: PROTOCOLS.has(protocol) ? (protocol as ConntrackEntry['protocol']) : 'other',
    state,
    original,
    reply,
    mark: readNumber(rest.get('mark')) ?? 0,
    zone: readNumber(rest.get('zone')) ?? 0,
    timeoutSeconds: readNumber(timeout) ?? null,
  };
}

function readTuple(fields: ReadonlyMap<string, string> | undefined): ConntrackTuple | undefined {
  const source = readEndpoint(fields?.get('src'), fields?.get('sport'));
  const destination = readEndpoint(fields?.get('dst'), fields?.get('dport'));
  return source === undefined || destination === undefined ? undefined : { source, destination };
}

/** Protocols without ports have port 0. */
function readEndpoint(host: string | undefined, port: string | undefined): Endpoint | undefined {
  const address = host === undefined ? undefined : parseIpAddress(host);
  const number = port === undefined ? 0 : readNumber(port);
  return address === undefined || number === undefined || number > 0xffff ? undefined : { address, port: toPortNumber(number) };
}

function readNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,10}$/.test(text) ? Number(text) : undefined;
}
