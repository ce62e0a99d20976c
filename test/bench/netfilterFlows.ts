import { readFileSync } from 'node:fs';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { ConntrackEntry, Snapshot } from '../../agent/protocol/snapshot.ts';
import { createDemoSnapshot } from '../../simulator/mesh/demoWorld.ts';
import { ConnectionTracker } from '../../simulator/world/conntrack.ts';
import { arrive, send } from '../../simulator/world/network.ts';
import { Simulation } from '../../simulator/world/simulation.ts';
import { TraceRecorder } from '../../simulator/world/traceRecorder.ts';
import type { World } from '../../simulator/world/world.ts';
import { buildWorld } from '../../simulator/world/world.ts';

const PORTS = 60_000;

/** A rate of the engine, and of the same without what is measured. */
export interface Rates {
  readonly value: number;
  readonly baseline: number;
}

/** First packets of connections on Istio's default rules: verdicts only, and with a whole trace. */
export function measureIstio(): Rates {
  const world = buildWorld(createDemoSnapshot());
  sendSyns(world, 20_000, false);
  return { value: sendSyns(world, PORTS, false), baseline: sendSyns(world, 20_000, true) };
}

/** First packets on a large rule set, with indexed chains and from rule to rule. */
export function measureLarge(file: string): Rates {
  const snapshot = routerSnapshot(file);
  const [indexed, linear] = [buildWorld(snapshot), buildWorld(snapshot, { indexed: false })];
  forwardSyns(indexed, 2000);
  forwardSyns(linear, 500);
  return { value: forwardSyns(indexed, 20_000), baseline: forwardSyns(linear, 2000) };
}

/** Bytes of heap that a tracking table of so many connections takes; `collect` collects what is not used any more. */
export function measureMemory(count: number, collect: () => void): number {
  const list = entries(count);
  collect();
  const before = process.memoryUsage().heapUsed;
  const tracker = new ConnectionTracker(list);
  collect();
  const used = process.memoryUsage().heapUsed - before;
  if (tracker.entries().length !== count) {
    throw new RangeError('not every entry was kept');
  }
  return used;
}

function sendSyns(world: World, count: number, traced: boolean): number {
  const [from, to] = world.snapshot.pods;
  const [source, destination] = [from?.addresses[0], to?.addresses[0]];
  if (from === undefined || source === undefined || destination === undefined) {
    throw new RangeError('the demo has no two pods');
  }
  const sender = { namespace: from.namespace, owner: { uid: 1000, gid: 1000 } };
  const simulation = new Simulation(world);
  const started = process.cpuUsage();
  let delivered = 0;
  for (let index = 0; index < count; index += 1) {
    const transport = { kind: 'tcp', sourcePort: toPortNumber(1024 + (index % PORTS)), destinationPort: toPortNumber(8080), flags: ['SYN'] } as const;
    const [journey] = send(simulation, traced ? new TraceRecorder() : null, sender, { source, destination, transport }, { answers: false });
    delivered += journey?.end.kind === 'delivered' ? 1 : 0;
  }
  return rate(count, delivered, started);
}

function forwardSyns(world: World, count: number): number {
  const simulation = new Simulation(world);
  const started = process.cpuUsage();
  let ended = 0;
  for (let index = 0; index < count; index += 1) {
    const transport = { kind: 'tcp', sourcePort: toPortNumber(1024 + (index % PORTS)), destinationPort: toPortNumber([22, 80, 443, 25][index % 4] ?? 22), flags: ['SYN'] } as const;
    const source = toIpAddress(`188.95.234.${(index % 250) + 1}`);
    const destination = toIpAddress(`131.159.${14 + (index % 4)}.${index % 250}`);
    const [journey] = arrive(simulation, null, '1' as NamespaceId, 'eth1.1019', { source, destination, transport, macSource: '00:16:3e:00:00:01' }, { answers: false });
    ended += journey === undefined ? 0 : 1;
  }
  return rate(count, ended, started);
}

function rate(count: number, ended: number, started: NodeJS.CpuUsage): number {
  if (ended !== count) {
    throw new RangeError(`${ended} of ${count} packets came to their end`);
  }
  // The processor's time and not the clock's: other programs run beside it.
  const { user, system } = process.cpuUsage(started);
  return (count * 1e6) / (user + system);
}

/** A router with the devices that the rule set names. */
function routerSnapshot(file: string): Snapshot {
  const text = readFileSync(file, 'latin1').replaceAll('XX:XX:XX:XX:XX:XX', '00:16:3e:00:00:01');
  const devices = ['eth0', 'eth1.96', 'eth1.97', 'eth1.109', 'eth1.1019', 'eth1.1011'];
  return {
    ...createDemoSnapshot(), pods: [],
    namespaces: [{
      id: '1' as NamespaceId, names: ['router'],
      links: devices.map((name, index) => ({
        index: index + 1, name, kind: 'ethernet', up: true, mtu: 1500, macAddress: null, master: null, peer: null, addresses: [{ address: toIpAddress(`10.${index}.0.1`), prefixLength: 24, scope: 'global' as const }],
      })),
      routes: devices.map((device, index) => ({
        family: 'ipv4' as const, type: 'unicast', destination: { address: toIpAddress(index === 0 ? '0.0.0.0' : `10.${index}.0.0`), prefixLength: index === 0 ? 0 : 24 }, gateway: null, device, preferredSource: null,
        table: 254, metric: 0, scope: 'link',
      })),
      routingRules: [], sysctls: { 'net.ipv4.ip_forward': '1', 'net.ipv4.conf.all.rp_filter': '0' }, ruleSets: [{ family: 'ipv4', backend: 'legacy', text }], conntrack: [], sockets: [],
    }],
  };
}

function entries(count: number): readonly ConntrackEntry[] {
  return Array.from({ length: count }, (_, index): ConntrackEntry => {
    const source = { address: toIpAddress(`10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`), port: toPortNumber(1024 + (index % PORTS)) };
    const destination = { address: toIpAddress('10.244.1.2'), port: toPortNumber(8080) };
    return { protocol: 'tcp', state: 'ESTABLISHED', original: { source, destination }, reply: { source: destination, destination: source }, mark: 0, zone: 0, timeoutSeconds: null };
  });
}
