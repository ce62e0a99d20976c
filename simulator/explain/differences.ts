import type { Endpoint, IpAddress } from '../../agent/protocol/scalars.ts';
import type { Trace, TraceCost, TraceLeg } from '../../agent/protocol/trace.ts';
import { writeEndpoint } from '../world/tuple.ts';

/**
 * Says what differs between two ways of the same flow, for the applications first and then in cost: one sentence for
 * each thing that is not the same. Nothing is said of what is the same, except that applications notice nothing.
 */
export function describeDifferences(iptables: Trace, sockops: Trace): readonly string[] {
  const seen = [...compareOutcome(iptables, sockops), ...compareLegs(iptables, sockops)];
  const open = [iptables, sockops].some(({ outcome }) => outcome.result === 'depends');
  const same = `${open ? 'As far as it can be told, both' : 'Both'} ways look the same to the applications: the same sockets take the connections, and the same addresses are seen.`;
  const applications = seen.length > 0 ? seen : [same];
  return [...applications, ...compareData(iptables, sockops), ...compareCost(iptables, sockops)];
}

function compareOutcome(iptables: Trace, sockops: Trace): string[] {
  if (iptables.outcome.result === sockops.outcome.result) {
    return [];
  }
  return [`On the iptables path the connection is ${outcomeText(iptables)}; on the sockops path it is ${outcomeText(sockops)}.`];
}

function outcomeText({ outcome }: Trace): string {
  const summary = outcome.summary.replace(/\.$/, '');
  return outcome.result === 'depends' ? `not decided (${summary})` : `${outcome.result} (${summary})`;
}

function compareLegs(iptables: Trace, sockops: Trace): string[] {
  if (iptables.legs.length !== sockops.legs.length) {
    return [`The flow is made of ${plural(iptables.legs.length, 'TCP connection')} on the iptables path and of ${plural(sockops.legs.length, 'TCP connection')} on the sockops path.`];
  }
  return iptables.legs.flatMap((leg, index) => {
    const other = sockops.legs[index];
    return other === undefined ? [] : [...compareLeg(leg, other), ...comparePeers(leg, peerSeenByServer(iptables, leg), peerSeenByServer(sockops, other))];
  });
}

/** Who the server takes the client to be: what the accepted packet carries, after any NAT of its source. */
function peerSeenByServer(trace: Trace, leg: TraceLeg): IpAddress {
  const accepted = trace.steps.find((step) => step.leg === leg.index && step.phase === 'accept');
  return accepted?.after.source.address ?? leg.client.address.address;
}

function comparePeers(leg: TraceLeg, iptables: IpAddress, sockops: IpAddress): string[] {
  if (leg.server === null || iptables === sockops) {
    return [];
  }
  return [`${leg.server.description} sees ${leg.client.description} come from ${iptables} on the iptables path and from ${sockops} on the sockops path.`];
}

function compareLeg(iptables: TraceLeg, sockops: TraceLeg): string[] {
  const client = iptables.client.description;
  const server = iptables.server?.description ?? 'the server';
  const sentence = (what: string, left: Endpoint | null, right: Endpoint | null): string[] =>
    endpointText(left) === endpointText(right) ? [] : [`${what} ${endpointText(left)} on the iptables path and ${endpointText(right)} on the sockops path.`];
  return [
    ...(iptables.server?.description === sockops.server?.description
      ? []
      : [`${client} is connected to ${iptables.server?.description ?? 'nobody'} on the iptables path and to ${sockops.server?.description ?? 'nobody'} on the sockops path.`]),
    ...sentence(`getpeername tells ${client}`, iptables.peerSeenByClient, sockops.peerSeenByClient),
    ...sentence(`SO_ORIGINAL_DST tells ${server}`, iptables.originalDestination, sockops.originalDestination),
    ...(iptables.server !== null && sockops.server !== null ? sentence(`The connection of ${server} is at`, iptables.server.address, sockops.server.address) : []),
  ];
}

function endpointText(endpoint: Endpoint | null): string {
  return endpoint === null ? 'nothing' : writeEndpoint(endpoint);
}

function compareData(iptables: Trace, sockops: Trace): string[] {
  const direct = (trace: Trace): string => {
    const count = trace.legs.filter((leg) => leg.data === 'socket-to-socket').length;
    return `${count} of ${plural(trace.legs.length, 'connection')}`;
  };
  return direct(iptables) === direct(sockops) ? [] : [`Messages go straight from socket to socket on ${direct(sockops)} on the sockops path, and on ${direct(iptables)} on the iptables path.`];
}

const COSTS: readonly { readonly field: keyof TraceCost; readonly write: (count: number) => string; readonly when: string }[] = [
  { field: 'hooksPerMessage', when: 'One message meets', write: (count) => plural(count, 'netfilter hook') },
  { field: 'stackTraversalsPerMessage', when: 'One message goes down and up the TCP/IP stack', write: (count) => plural(count, 'time') },
  { field: 'tablesVisited', when: 'Opening the connections asks', write: (count) => plural(count, 'iptables table') },
  { field: 'rulesCompared', when: 'Opening the connections compares', write: (count) => plural(count, 'iptables rule') },
  { field: 'conntrackEntries', when: 'The connections take', write: (count) => (count === 1 ? '1 entry of connection tracking' : `${count} entries of connection tracking`) },
  { field: 'bpfInstructions', when: 'Opening the connections and sending a message runs', write: (count) => plural(count, 'BPF instruction') },
];

function compareCost(iptables: Trace, sockops: Trace): string[] {
  return COSTS.flatMap(({ field, when, write }) => {
    const left = iptables.cost[field];
    const right = sockops.cost[field];
    return left === right ? [] : [`${when} ${write(left)} on the iptables path and ${write(right)} on the sockops path.`];
  });
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
