import type { DecisionEvent } from '../../agent/protocol/acceleration.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Endpoint } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { SocketInfo } from '../../agent/protocol/snapshot.ts';
import { toUint64Text } from '../../agent/protocol/scalars.ts';
import type { Flow } from '../../agent/protocol/trace.ts';
import type { Datapath } from '../bpf/datapath.ts';
import type { SocketKernel } from '../bpf/socketKernel.ts';
import { TCP_STATE } from '../bpf/sockets.ts';
import type { KernelSocket } from '../bpf/sockets.ts';
import { runAcceleratedFlow } from '../explain/acceleratedFlow.ts';
import type { FlowResult } from '../explain/acceleratedFlow.ts';
import { findProfile } from '../explain/acceleratedPods.ts';
import { Simulation } from '../world/simulation.ts';
import { TraceRecorder } from '../world/traceRecorder.ts';
import type { World } from '../world/world.ts';

/** How many flows are open at a time; the oldest closes for a new one. */
const OPEN_FLOWS = 6;
/** Ports are handed out upwards: before they run out, everything closes and they start anew. */
const FLOWS_PER_ROUND = 8_000;
/** Outside of the node, where no sidecar is. */
const OUTSIDE: Endpoint = { address: toIpAddress('203.0.113.10'), port: toPortNumber(443) };
const FIRST_INODE = 800_000n;

/**
 * The requests that the applications of a simulated world keep making: each application asks those of the other pods,
 * and now and then one at home or outside. The connections run through the programs that are attached.
 */
export class LiveTraffic {
  readonly #world: World;
  readonly #sockets: SocketKernel;
  readonly #flows: readonly Flow[];
  readonly #open: KernelSocket[][] = [];
  #simulation: Simulation;
  #count = 0;

  constructor(world: World, sockets: SocketKernel) {
    this.#world = world;
    this.#sockets = sockets;
    this.#simulation = new Simulation(world);
    this.#flows = demoFlows(world);
  }

  /** Makes the next request and closes the oldest connections; gives the events of the programs. */
  makeRequest(datapaths: readonly Datapath[]): readonly DecisionEvent[] {
    const flow = this.#flows[this.#count % this.#flows.length];
    return flow === undefined ? [] : this.open(flow, datapaths).events;
  }

  /** Opens the connections of a flow and closes the oldest; gives what happened to it, and the events of the programs. */
  open(flow: Flow, datapaths: readonly Datapath[]): { readonly result: FlowResult; readonly events: readonly DecisionEvent[] } {
    const events: DecisionEvent[] = [];
    const report = (event: DecisionEvent): void => {
      events.push(event);
    };
    this.#count += 1;
    if (this.#count % FLOWS_PER_ROUND === 0) {
      this.closeAll();
      this.#simulation = new Simulation(this.#world);
    }
    const before = new Set(this.#sockets.sockets());
    const result = runAcceleratedFlow(this.#simulation, new TraceRecorder(), { sockets: this.#sockets, datapaths, report }, flow);
    this.#open.push(this.#sockets.sockets().filter((socket) => !before.has(socket)));
    while (this.#open.length > OPEN_FLOWS) {
      this.#close(this.#open.shift() ?? []);
    }
    // Closing tells of itself only here: nothing else ran meanwhile.
    return { result, events: [...events, ...datapaths.flatMap((datapath) => datapath.drainEvents())] };
  }

  /** The sockets that are open, as a snapshot lists them. */
  openSockets(): readonly { readonly socket: KernelSocket; readonly info: SocketInfo }[] {
    return this.#sockets
      .sockets()
      .filter((socket) => socket.state === TCP_STATE.ESTABLISHED)
      .map((socket) => ({ socket, info: describeSocket(socket) }));
  }

  /** Closes every connection. */
  closeAll(): void {
    for (const sockets of this.#open.splice(0)) {
      this.#close(sockets);
    }
  }

  #close(sockets: readonly KernelSocket[]): void {
    for (const socket of sockets) {
      this.#sockets.close(socket);
    }
  }
}

function describeSocket(socket: KernelSocket): SocketInfo {
  const { owner } = socket;
  return {
    protocol: 'tcp',
    state: 'established',
    local: socket.local,
    remote: socket.remote,
    dualStack: false,
    uid: owner.uid,
    inode: toUint64Text(FIRST_INODE + socket.cookie),
    cookie: toUint64Text(socket.cookie),
    owner: { pid: owner.pid, command: owner.command, cgroup: socket.cgroup, gid: owner.gid },
  };
}

/** Each application to each of another pod, then one that stays at home and one that leaves the node. */
function demoFlows(world: World): readonly Flow[] {
  const applications = world.snapshot.pods.flatMap((pod) => {
    const namespace = world.namespaces.get(pod.namespace);
    const proxyUid = pod.profile === null ? undefined : findProfile(pod.profile)?.proxyUid;
    return (namespace?.state.sockets ?? [])
      .filter((socket) => socket.state === 'listen' && socket.uid !== proxyUid && socket.owner !== null)
      .flatMap((socket) => pod.addresses.slice(0, 1).map((address) => ({ pod, socket, endpoint: { address, port: socket.local.port } })));
  });
  const [first] = applications;
  if (first === undefined) {
    return [];
  }
  const flow = (from: typeof first, destination: Endpoint): Flow => ({
    protocol: 'tcp',
    source: {
      kind: 'process',
      namespace: from.pod.namespace,
      cgroup: from.socket.owner?.cgroup ?? null,
      uid: from.socket.uid,
      gid: from.socket.owner?.gid ?? from.socket.uid,
      address: null,
      port: null,
    },
    destination,
  });
  const between = applications.flatMap((from) => applications.filter((to) => to.pod !== from.pod).map((to) => flow(from, to.endpoint)));
  return [...between, ...between, flow(first, { address: toIpAddress('127.0.0.1'), port: first.endpoint.port }), ...between, flow(first, OUTSIDE)];
}
