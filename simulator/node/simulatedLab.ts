import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import type { ConnectionList } from '../../agent/protocol/connections.ts';
import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import { checkLabRun, countSeen, describeLabLegs, MAX_LAB_EVENTS } from '../../agent/protocol/lab.ts';
import type { LabInfo, LabLeg, LabPodInfo, LabRunReport, LabRunRequest, LabSidecarView } from '../../agent/protocol/lab.ts';
import type { Endpoint, IpAddress } from '../../agent/protocol/scalars.ts';
import type { Snapshot } from '../../agent/protocol/snapshot.ts';
import type { Flow } from '../../agent/protocol/trace.ts';
import { findProfile } from '../explain/acceleratedPods.ts';
import type { FlowResult } from '../explain/acceleratedFlow.ts';

/** The world of a simulated node, which is a lab that is always up. */
export const SIMULATED_LAB_NAME = 'demo';

/** Each connection runs through the virtual machine: more would keep whoever runs it waiting. */
const MAX_CONNECTIONS = 1_000;
/** How many are open when the node is asked about them. */
const OPEN_CONNECTIONS = 4;

/** What the traffic of a simulated lab needs of its node. */
export interface SimulatedTraffic {
  /** Opens the connections of a flow; the oldest ones close for it. */
  readonly open: (flow: Flow) => { readonly result: FlowResult; readonly events: readonly DecisionEvent[] };
  readonly closeAll: () => void;
  readonly listConnections: () => ConnectionList;
}

/** Gives the lab that a simulated world is. */
export function describeSimulatedLab(world: Snapshot): LabInfo {
  const pods = labPods(world);
  return {
    name: SIMULATED_LAB_NAME,
    state: 'up',
    since: world.takenAt,
    profile: world.pods.find(({ profile }) => profile !== null)?.profile ?? null,
    path: 'iptables',
    sidecar: 'simulated',
    pods,
    problems: [],
  };
}

/** The error for a second lab on a simulated node. */
export function secondLabError(): MeshpathError {
  return new MeshpathError({
    code: 'LAB_EXISTS',
    message: 'A simulated node has the one lab that it is.',
    reason: `Its pods, rules and sidecars are the lab ${SIMULATED_LAB_NAME}, which is up.`,
    remedy: 'Run traffic in it, or bring a lab up on a node with Linux.',
  });
}

/** The error for taking down what a simulated node consists of, or a lab that is not there. */
export function simulatedDownError(name: string): MeshpathError {
  return name === SIMULATED_LAB_NAME
    ? new MeshpathError({
        code: 'NOT_SUPPORTED',
        message: 'The lab of a simulated node cannot be taken down.',
        reason: 'The node consists of it.',
        remedy: 'Disconnect the node: nothing is left of it.',
      })
    : notFoundError(name);
}

/** Opens connections in the world and tells what each end saw. Throws LAB_NOT_FOUND, INPUT_INVALID. */
export function runSimulatedTraffic(world: Snapshot, traffic: SimulatedTraffic, request: LabRunRequest): LabRunReport {
  if (request.name !== SIMULATED_LAB_NAME) {
    throw notFoundError(request.name);
  }
  checkLabRun(request);
  if (request.connections > MAX_CONNECTIONS) {
    throw inputError('A simulated node does not open so many connections.', `${request.connections} is more than ${MAX_CONNECTIONS}.`, 'Give a smaller number, or use a node with Linux.');
  }
  const pods = labPods(world);
  const from = requirePod(pods, request.from);
  const to = requirePod(pods, request.to);
  const flow = createFlow(world, from, to.server);
  const results: FlowResult[] = [];
  const events: DecisionEvent[] = [];
  let legs: readonly LabLeg[] = [];
  traffic.closeAll();
  for (let index = 0; index < request.connections; index += 1) {
    const opened = traffic.open(flow);
    results.push(opened.result);
    events.push(...opened.events);
    if (index === Math.min(request.connections, OPEN_CONNECTIONS) - 1) {
      legs = describeLabLegs(traffic.listConnections(), new Map(pods.map(({ namespace, name }) => [namespace, name])));
    }
  }
  const delivered = results.filter(({ outcome }) => outcome.result === 'delivered');
  const failures = results.flatMap(({ outcome }) => (outcome.result === 'delivered' ? [] : [outcome.summary]));
  return {
    lab: SIMULATED_LAB_NAME,
    from: from.name,
    to: to.name,
    destination: to.server,
    exact: delivered.length,
    failures: countSeen(failures),
    bytes: 0,
    clientPeers: countSeen(delivered.flatMap((result) => result.legs[0]?.peerSeenByClient ?? [])),
    serverPeers: countSeen(delivered.flatMap((result): IpAddress[] => result.connections.slice(-1).map(({ server }) => server.remote.address))),
    sidecars: sidecarViews(world, delivered),
    legs,
    connectLatency: null,
    exchangeLatency: null,
    events: events.slice(0, MAX_LAB_EVENTS),
    decisions: countSeen(events.map(({ hook, reason }) => ({ hook, reason }))),
    lostEvents: 0,
    omissions: ['Latency and bytes: a simulated node counts steps instead of time, and follows one message of each connection.'],
  };
}

function sidecarViews(world: Snapshot, results: readonly FlowResult[]): LabSidecarView[] {
  return world.pods.flatMap((pod) => {
    const profile = pod.profile === null ? undefined : findProfile(pod.profile);
    if (profile === undefined) {
      return [];
    }
    return (['outbound', 'inbound'] as const).flatMap((side): LabSidecarView[] => {
      const port = side === 'outbound' ? profile.outboundPort : profile.inboundPort;
      const taken = results.flatMap(({ connections, legs }) =>
        connections.flatMap(({ server }, index) =>
          server.namespace === pod.namespace && server.owner.uid === profile.proxyUid && server.local.port === port ? [{ peer: server.remote.address, told: legs[index]?.originalDestination ?? null }] : [],
        ),
      );
      return taken.length === 0
        ? []
        : [{ pod: pod.name, side, connections: taken.length, originalDestinations: countSeen(taken.map(({ told }) => told)), peers: countSeen(taken.map(({ peer }) => peer)) }];
    });
  });
}

/** The pods in which an application listens, with its socket. */
function labPods(world: Snapshot): LabPodInfo[] {
  return world.pods.flatMap((pod) => {
    const proxyUid = pod.profile === null ? undefined : findProfile(pod.profile)?.proxyUid;
    const namespace = world.namespaces.find(({ id }) => id === pod.namespace);
    const listening = (namespace?.sockets ?? []).filter(({ state, protocol }) => state === 'listen' && protocol === 'tcp');
    const server = listening.find(({ uid }) => uid !== proxyUid);
    const sidecar = listening.find(({ uid }) => uid === proxyUid);
    const [address] = pod.addresses;
    const [cgroup] = pod.cgroups;
    if (server === undefined || address === undefined || cgroup === undefined) {
      return [];
    }
    const processes = [
      { role: 'server', owner: server.owner },
      { role: 'sidecar', owner: sidecar?.owner ?? null },
    ].flatMap(({ role, owner }) => (owner === null ? [] : [{ role, pid: owner.pid, running: true }]));
    return [{ name: pod.name, namespace: pod.namespace, namespaceName: namespace?.names[0] ?? pod.name, cgroup, address, server: { address, port: server.local.port }, processes }];
  });
}

/** The application of a pod connects to a server. */
function createFlow(world: Snapshot, from: LabPodInfo, destination: Endpoint): Flow {
  const socket = world.namespaces
    .find(({ id }) => id === from.namespace)
    ?.sockets.find(({ state, local }) => state === 'listen' && local.port === from.server.port);
  const uid = socket?.uid ?? 0;
  return {
    protocol: 'tcp',
    source: { kind: 'process', namespace: from.namespace, cgroup: socket?.owner?.cgroup ?? from.cgroup, uid, gid: socket?.owner?.gid ?? uid, address: null, port: null },
    destination,
  };
}

function requirePod(pods: readonly LabPodInfo[], name: string): LabPodInfo {
  const pod = pods.find((candidate) => candidate.name === name);
  if (pod === undefined) {
    throw inputError(`The lab ${SIMULATED_LAB_NAME} has no pod ${name.slice(0, 60)}.`, `Its pods are ${pods.map((candidate) => candidate.name).join(', ')}.`, 'Name one of them.');
  }
  return pod;
}

function notFoundError(name: string): MeshpathError {
  return new MeshpathError({
    code: 'LAB_NOT_FOUND',
    message: `There is no lab ${name.slice(0, 60)} on this node.`,
    reason: `The labs are: ${SIMULATED_LAB_NAME}.`,
    remedy: 'Name one of them.',
  });
}
