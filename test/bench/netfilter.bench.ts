import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { ConntrackEntry, Snapshot } from '../../agent/protocol/snapshot.ts';
import { createDemoSnapshot } from '../../simulator/mesh/demoWorld.ts';
import { arrive, send } from '../../simulator/world/network.ts';
import { Simulation } from '../../simulator/world/simulation.ts';
import { TraceRecorder } from '../../simulator/world/traceRecorder.ts';
import type { World } from '../../simulator/world/world.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import type { Bench, Sample } from './bench.ts';

const LARGE_RULES = join(import.meta.dirname, '../../../shared/data/rulesets/tum_4848.rules');
const skipLarge = existsSync(LARGE_RULES) ? false : 'needs a large rule set (../shared/data/rulesets/tum_4848.rules)';
const PORTS = 60_000;

/** First packets of connections a second: their whole way through rules, conntrack, NAT and routing to a socket. */
export const benches: readonly Bench[] = [
  {
    name: "netfilter: first packets on Istio's default rules, verdicts only",
    unit: '1/s',
    baseline: 'with a whole trace',
    runs: 7,
    skip: false,
    measure: (): Promise<Sample> => {
      const world = buildWorld(createDemoSnapshot());
      sendSyns(world, 20_000, false);
      return Promise.resolve({ value: sendSyns(world, 60_000, false), baseline: sendSyns(world, 20_000, true) });
    },
  },
  {
    name: 'netfilter: first packets on 4,848 rules, verdicts only',
    unit: '1/s',
    baseline: 'from rule to rule, without an index',
    runs: 3,
    skip: skipLarge,
    measure: (): Promise<Sample> => {
      const snapshot = routerSnapshot();
      const [indexed, linear] = [buildWorld(snapshot), buildWorld(snapshot, { indexed: false })];
      forwardSyns(indexed, 2000);
      forwardSyns(linear, 500);
      return Promise.resolve({ value: forwardSyns(indexed, 20_000), baseline: forwardSyns(linear, 2000) });
    },
  },
  {
    name: 'netfilter: memory of 100,000 conntrack entries',
    unit: 'bytes',
    runs: 3,
    skip: false,
    measure: (): Promise<Sample> => {
      const snapshot = createDemoSnapshot();
      const [namespace] = snapshot.namespaces;
      if (namespace === undefined) {
        throw new RangeError('the demo has no namespace');
      }
      const world = buildWorld({ ...snapshot, namespaces: [{ ...namespace, conntrack: [] }] });
      const found = world.namespaces.get(namespace.id);
      if (found === undefined) {
        throw new RangeError('the world lost its namespace');
      }
      const before = process.memoryUsage().heapUsed;
      const simulation = new Simulation({ ...world, namespaces: new Map([[namespace.id, { ...found, state: { ...found.state, conntrack: entries(100_000) } }]]) });
      const held = simulation.world.namespaces.get(namespace.id);
      const count = held === undefined ? 0 : simulation.trackerOf(held).entries().length;
      if (count !== 100_000) {
        throw new RangeError(`${count} entries were kept`);
      }
      return Promise.resolve({ value: process.memoryUsage().heapUsed - before });
    },
  },
];

function sendSyns(world: World, count: number, traced: boolean): number {
  const [from, to] = world.snapshot.pods;
  const [source, destination] = [from?.addresses[0], to?.addresses[0]];
  if (from === undefined || source === undefined || destination === undefined) {
    throw new RangeError('the demo has no two pods');
  }
  const sender = { namespace: from.namespace, owner: { uid: 1000, gid: 1000 } };
  const simulation = new Simulation(world);
  const started = performance.now();
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
  const devices = ['eth1.96', 'eth1.97', 'eth1.109', 'eth1.1019'];
  const started = performance.now();
  let ended = 0;
  for (let index = 0; index < count; index += 1) {
    const transport = { kind: 'tcp', sourcePort: toPortNumber(1024 + (index % PORTS)), destinationPort: toPortNumber([22, 80, 443, 25][index % 4] ?? 22), flags: ['SYN'] } as const;
    const source = toIpAddress(`188.95.${232 + (index % 4)}.${(index % 250) + 1}`);
    const destination = toIpAddress(`131.159.${14 + (index % 4)}.${index % 250}`);
    const [journey] = arrive(simulation, null, '1' as NamespaceId, devices[(index >> 2) % 4] ?? '', { source, destination, transport, macSource: '00:16:3e:00:00:01' }, { answers: false });
    ended += journey === undefined ? 0 : 1;
  }
  return rate(count, ended, started);
}

function rate(count: number, ended: number, started: number): number {
  if (ended !== count) {
    throw new RangeError(`${ended} of ${count} packets came to their end`);
  }
  return count / ((performance.now() - started) / 1000);
}

/** A router with the devices that the rule set names. */
function routerSnapshot(): Snapshot {
  const text = readFileSync(LARGE_RULES, 'latin1').replaceAll('XX:XX:XX:XX:XX:XX', '00:16:3e:00:00:01');
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
