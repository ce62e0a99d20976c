import type { Endpoint, IpAddress } from '../../agent/protocol/scalars.ts';
import type { Trace, TraceLeg } from '../../agent/protocol/trace.ts';
import { writeEndpoint } from '../world/conntrack.ts';

/**
 * Says what differs between two ways of the same flow, for the applications first and then in cost: one sentence for
 * each thing that is not the same. Nothing is said of what is the same, except that applications notice nothing.
 */
export function describeDifferences(iptables: Trace, sockops: Trace): readonly string[] {
  const seen = [...compareOutcome(iptables, sockops), ...compareLegs(iptables, sockops)];
  const applications = seen.length > 0 ? seen : ['Both ways look the same to the applications: the same sockets take the connections, and the same addresses are seen.'];
  return [...applications, ...compareData(iptables, sockops), ...compareCost(iptables, sockops)];
}

function compareOutcome(iptables: Trace, sockops: Trace): string[] {
  if (iptables.outcome.result === sockops.outcome.result) {
    return [];
  }
  return [`Over iptables the connection is ${outcomeText(iptables)}; over sockops it is ${outcomeText(sockops)}.`];
}

function outcomeText({ outcome }: Trace): string {
  const summary = outcome.summary.replace(/\.$/, '');
  return outcome.result === 'depends' ? `not decided (${summary})` : `${outcome.result} (${summary})`;
}

function compareLegs(iptables: Trace, sockops: Trace): string[] {
  if (iptables.legs.length !== sockops.legs.length) {
    return [`The flow is made of ${iptables.legs.length} TCP connection(s) over iptables and of ${sockops.legs.length} over sockops.`];
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
  return [`${leg.server.description} sees ${leg.client.description} come from ${iptables} over iptables and from ${sockops} over sockops.`];
}

function compareLeg(iptables: TraceLeg, sockops: TraceLeg): string[] {
  const client = iptables.client.description;
  const server = iptables.server?.description ?? 'the server';
  const sentence = (what: string, left: Endpoint | null, right: Endpoint | null): string[] =>
    endpointText(left) === endpointText(right) ? [] : [`${what} ${endpointText(left)} over iptables and ${endpointText(right)} over sockops.`];
  return [
    ...(iptables.server?.description === sockops.server?.description
      ? []
      : [`${client} is connected to ${iptables.server?.description ?? 'nobody'} over iptables and to ${sockops.server?.description ?? 'nobody'} over sockops.`]),
    ...sentence(`getpeername tells ${client}`, iptables.peerSeenByClient, sockops.peerSeenByClient),
    ...sentence(`SO_ORIGINAL_DST tells ${server}`, iptables.originalDestination, sockops.originalDestination),
    ...(iptables.server !== null && sockops.server !== null ? sentence(`The connection of ${server} is at`, iptables.server.address, sockops.server.address) : []),
  ];
}

function endpointText(endpoint: Endpoint | null): string {
  return endpoint === null ? 'nothing' : writeEndpoint(endpoint);
}

function compareData(iptables: Trace, sockops: Trace): string[] {
  const direct = (trace: Trace): number => trace.legs.filter((leg) => leg.data === 'socket-to-socket').length;
  if (direct(iptables) === direct(sockops)) {
    return [];
  }
  return [
    `Messages go straight from socket to socket on ${direct(sockops)} of ${sockops.legs.length} connection(s) over sockops; over iptables on ${direct(iptables)} of ${iptables.legs.length}.`,
  ];
}

const COSTS = [
  ['hooksPerMessage', 'One message meets', 'netfilter hook(s)'],
  ['stackTraversalsPerMessage', 'One message goes down and up the TCP/IP stack', 'time(s)'],
  ['tablesVisited', 'To open the connections,', 'table(s) of iptables are asked'],
  ['rulesCompared', 'To open the connections,', 'rule(s) of iptables are compared'],
  ['conntrackEntries', 'The connections take', 'entries of connection tracking'],
  ['bpfInstructions', 'To open the connections and send a message,', 'BPF instruction(s) run'],
] as const;

function compareCost(iptables: Trace, sockops: Trace): string[] {
  return COSTS.flatMap(([field, before, after]) => {
    const left = iptables.cost[field];
    const right = sockops.cost[field];
    return left === right ? [] : [`${before} ${left} ${after} over iptables, ${right} over sockops.`];
  });
}
