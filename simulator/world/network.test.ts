import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import { toPortNumber, toUint64Text } from '../../agent/protocol/scalars.ts';
import type { NetworkNamespace, Snapshot, SocketInfo } from '../../agent/protocol/snapshot.ts';
import { createDemoSnapshot } from '../mesh/demoWorld.ts';
import type { PacketDraft, TransportDraft } from '../netfilter/packetDraft.ts';
import type { Journey } from './journey.ts';
import { arrive, connect, ping, sendDatagram } from './network.ts';
import { Simulation } from './simulation.ts';
import type { World } from './world.ts';
import { buildWorld } from './world.ts';

const NODE = '1' as NamespaceId;
const SERVER = '2' as NamespaceId;
const sender = { namespace: NODE, owner: { uid: 1000, gid: 1000 } };

interface Rules {
  readonly node?: string;
  readonly node6?: string;
  readonly server?: string;
}

/** A node with an uplink eth0 and a veth pair to a server, which listens on TCP and UDP 8080. */
function worldOf(rules: Rules, change: Partial<NetworkNamespace> = {}): World {
  const link = (index: number, name: string, peer: NamespaceId | null, addresses: readonly string[]): NetworkNamespace['links'][number] => ({
    index, name, kind: name === 'lo' ? 'loopback' : peer === null ? 'ethernet' : 'veth', up: true, mtu: 1500, macAddress: '02:00:00:00:00:01', master: null, peer: peer === null ? null : { namespace: peer, index: 2 },
    addresses: addresses.map((address) => ({ address: toIpAddress(address), prefixLength: address.includes(':') ? 64 : name === 'lo' ? 8 : 24, scope: name === 'lo' ? 'host' as const : 'global' as const })),
  });
  const route = (destination: string, device: string, gateway: string | null = null): NetworkNamespace['routes'][number] => {
    const [address = '', length] = destination.split('/');
    return {
      family: destination.includes(':') ? 'ipv6' : 'ipv4', type: 'unicast', destination: { address: toIpAddress(address), prefixLength: Number(length) }, gateway: gateway === null ? null : toIpAddress(gateway), device,
      preferredSource: null, table: 254, metric: 0, scope: 'link',
    };
  };
  const listener = (protocol: 'tcp' | 'udp'): SocketInfo => ({
    protocol, state: protocol === 'tcp' ? 'listen' : 'other', local: { address: toIpAddress('::'), port: toPortNumber(8080) }, remote: { address: toIpAddress('::'), port: toPortNumber(0) }, dualStack: true, uid: 0,
    inode: toUint64Text(1n), cookie: null, owner: null,
  });
  const sysctls = { 'net.ipv4.ip_forward': '1', 'net.ipv6.conf.all.forwarding': '1', 'net.ipv4.conf.all.rp_filter': '0' };
  const base = { routingRules: [], sysctls, conntrack: [], sockets: [] };
  const node: NetworkNamespace = {
    ...base, id: NODE, names: ['node'], links: [link(1, 'lo', null, ['127.0.0.1', '::1']), link(2, 'veth0', SERVER, ['10.1.0.1', 'fd01::1']), link(3, 'eth0', null, ['192.0.2.1', 'fd02::1'])],
    routes: [route('10.1.0.0/24', 'veth0'), route('fd01::/64', 'veth0'), route('192.0.2.0/24', 'eth0'), route('fd02::/64', 'eth0')],
    ruleSets: [{ family: 'ipv4', backend: 'legacy', text: rules.node ?? '' }, { family: 'ipv6', backend: 'legacy', text: rules.node6 ?? '' }], ...change,
  };
  const server: NetworkNamespace = {
    ...base, id: SERVER, names: ['server'], links: [link(1, 'lo', null, ['127.0.0.1', '::1']), link(2, 'eth0', NODE, ['10.1.0.2', 'fd01::2'])],
    routes: [route('10.1.0.0/24', 'eth0'), route('fd01::/64', 'eth0'), route('0.0.0.0/0', 'eth0', '10.1.0.1'), route('::/0', 'eth0', 'fd01::1')],
    ruleSets: [{ family: 'ipv4', backend: 'legacy', text: rules.server ?? '' }], sockets: [listener('tcp'), listener('udp')],
  };
  const snapshot: Snapshot = { ...createDemoSnapshot(), takenAt: '2026-01-01T00:00:00Z', namespaces: [node, server], pods: [] };
  return buildWorld(snapshot);
}

function draft(source: string, destination: string, transport: TransportDraft, more: Partial<PacketDraft> = {}): PacketDraft {
  return { source: toIpAddress(source), destination: toIpAddress(destination), transport, ...more };
}

const tcp = (destinationPort: number, flags: Extract<TransportDraft, { kind: 'tcp' }>['flags'] = ['SYN']): TransportDraft => ({ kind: 'tcp', sourcePort: toPortNumber(4000), destinationPort: toPortNumber(destinationPort), flags });
const to = (address: string, port: number): Parameters<typeof connect>[2] => ({ sender, address: null, port: null, destination: { address: toIpAddress(address), port: toPortNumber(port) } });
const told = (journeys: readonly Journey[]): string => journeys.map(({ sent, end }) => `${sent.source}>${sent.destination} ${end.kind}`).join(', ');

test('a TCP connection over IPv6 is opened, and forgotten by conntrack when it is reset at once', () => {
  const world = worldOf({ node6: '*filter\n:OUTPUT ACCEPT\n-A OUTPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n' });
  const simulation = new Simulation(world);
  const opened = connect(simulation, null, to('fd01::2', 8080));
  assert.equal(opened.outcome.kind, 'connected');
  assert.equal(told(opened.journeys), 'fd01::1>fd01::2 delivered, fd01::2>fd01::1 delivered, fd01::1>fd01::2 delivered');
  const refused = connect(simulation, null, to('fd01::2', 81));
  assert.deepEqual(refused.outcome.kind === 'failed' && refused.outcome.errno, 'ECONNREFUSED');
  const node = world.namespaces.get(NODE);
  assert.ok(node !== undefined);
  assert.deepEqual(simulation.trackerOf(node).entries().map(({ tcpState, assured }) => [tcpState, assured]), [['ESTABLISHED', true]]);
});

test('an error about a translated datagram is translated back, and reaches the socket that sent it', () => {
  const world = worldOf({ node: '*nat\n-A OUTPUT -p udp -d 10.1.0.99 -j DNAT --to-destination 10.1.0.2:81\nCOMMIT\n*filter\n-A INPUT -m conntrack ! --ctstate RELATED -j DROP\nCOMMIT\n' });
  const sent = sendDatagram(new Simulation(world), null, to('10.1.0.99', 53), 10);
  assert.equal(sent.outcome.kind === 'failed' && sent.outcome.errno, 'ECONNREFUSED');
  const { end } = sent.journeys[1] ?? assert.fail('there is no answer');
  assert.ok(end.kind === 'delivered' && end.packet.transport.kind === 'icmp');
  assert.deepEqual(end.packet.transport.about?.destination, '10.1.0.99');
});

test('echo requests are answered, and what answers is let through as ESTABLISHED', () => {
  const rules = '*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n';
  const simulation = new Simulation(worldOf({ node: rules }));
  assert.equal(told(ping(simulation, null, to('10.1.0.2', 0), 56).journeys), '10.1.0.1>10.1.0.2 delivered, 10.1.0.2>10.1.0.1 delivered');
  assert.equal(told(arrive(simulation, null, NODE, 'veth0', draft('10.1.0.9', '10.1.0.1', { kind: 'icmp', type: 8, code: 0, identifier: 5 }))), '10.1.0.9>10.1.0.1 dropped');
});

test('a forwarded packet whose TTL ends is answered, and one without a way too', () => {
  const simulation = new Simulation(worldOf({}));
  assert.equal(told(arrive(simulation, null, NODE, 'eth0', draft('192.0.2.7', '10.1.0.2', tcp(8080), { ttl: 1 }))), '192.0.2.7>10.1.0.2 dropped, 192.0.2.1>192.0.2.7 left');
  assert.equal(told(arrive(simulation, null, NODE, 'eth0', draft('192.0.2.7', '203.0.113.1', tcp(8080)))), '192.0.2.7>203.0.113.1 dropped, 192.0.2.1>192.0.2.7 left');
  assert.equal(told(arrive(simulation, null, NODE, 'eth0', draft('10.1.0.1', '10.1.0.2', tcp(8080)))), '10.1.0.1>10.1.0.2 dropped', 'its own address does not come from outside');
});

test('REJECT answers by its kind, to the one who sent', () => {
  const rules = '*filter\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\n-A FORWARD -j REJECT --reject-with icmp-admin-prohibited\nCOMMIT\n';
  const simulation = new Simulation(worldOf({ node: rules }));
  const reset = arrive(simulation, null, NODE, 'eth0', draft('192.0.2.7', '10.1.0.2', tcp(8080)));
  assert.equal(told(reset), '192.0.2.7>10.1.0.2 rejected, 10.1.0.2>192.0.2.7 left');
  assert.deepEqual(reset[1]?.sent.transport.kind === 'tcp' && reset[1].sent.transport.flags, ['RST', 'ACK']);
  const error = arrive(simulation, null, NODE, 'eth0', draft('192.0.2.7', '10.1.0.2', { kind: 'udp', sourcePort: toPortNumber(1), destinationPort: toPortNumber(8080) }));
  assert.deepEqual(error[1]?.sent.transport.kind === 'icmp' && [error[1].sent.transport.type, error[1].sent.transport.code], [3, 13]);
});

test('recent and limit remember, by the clock that is given', () => {
  const rules = '*filter\n-A FORWARD -m recent --name x --rcheck --seconds 10 --hitcount 2 -j DROP\n-A FORWARD -m recent --name x --set\n-A FORWARD -p tcp -m tcp --dport 9 -m limit --limit 1/min --limit-burst 1 -j DROP\nCOMMIT\n';
  const simulation = new Simulation(worldOf({ node: rules }));
  const send = (port: number): string => arrive(simulation, null, NODE, 'eth0', draft('192.0.2.7', '10.1.0.2', tcp(port)), { answers: false })[0]?.end.kind ?? 'nothing';
  const fork = simulation.fork();
  assert.deepEqual([send(8080), send(8080), send(8080)], ['delivered', 'delivered', 'dropped']);
  simulation.now += 11;
  assert.deepEqual([send(9), send(9)], ['dropped', 'unclaimed'], 'one token, and then none');
  const [first] = arrive(fork, null, NODE, 'eth0', draft('192.0.2.7', '10.1.0.2', tcp(8080)), { answers: false });
  assert.equal(first?.end.kind, 'delivered', 'a fork does not remember what the other saw');
});

test('TPROXY hands to a transparent socket what a rule for its mark brings here, and drops without one', () => {
  const rules = '*mangle\n-A PREROUTING -i eth0 -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff\nCOMMIT\n';
  const lookup = (priority: number, table: number, mark: { value: number; mask: number } | null): NetworkNamespace['routingRules'][number] => ({ family: 'ipv4', priority, source: null, destination: null, mark, inInterface: null, outInterface: null, table, action: 'lookup' });
  const transparent = (isTransparent: boolean): World => {
    const plain = worldOf({ node: rules });
    const node = plain.snapshot.namespaces[0] ?? assert.fail('there is no node');
    const local = { ...(node.routes[0] ?? assert.fail('there is no route')), type: 'local', destination: { address: toIpAddress('0.0.0.0'), prefixLength: 0 }, device: 'lo', table: 133 };
    const socket: SocketInfo = { ...(plain.snapshot.namespaces[1]?.sockets[0] ?? assert.fail('there is no socket')), local: { address: toIpAddress('0.0.0.0'), port: toPortNumber(15_006) }, transparent: isTransparent };
    return worldOf({ node: rules }, { routes: [...node.routes, local], routingRules: [lookup(0, 255, null), lookup(100, 133, { value: 0x539, mask: 0xffff_ffff }), lookup(32_766, 254, null)], sockets: [socket] });
  };
  const syn = draft('192.0.2.7', '10.1.0.2', tcp(8080));
  const [taken] = arrive(new Simulation(transparent(true)), null, NODE, 'eth0', syn);
  assert.ok(taken?.end.kind === 'delivered' && taken.end.namespace === NODE && taken.end.socket?.info.local.port === 15_006);
  assert.equal(told(arrive(new Simulation(transparent(false)), null, NODE, 'eth0', syn)), '192.0.2.7>10.1.0.2 dropped');
});

test('zones keep connections apart', () => {
  const world = worldOf({ node: '*raw\n-A PREROUTING -i eth0 -j CT --zone 7\nCOMMIT\n' });
  const simulation = new Simulation(world);
  arrive(simulation, null, NODE, 'eth0', draft('192.0.2.7', '10.1.0.2', tcp(8080)), { answers: false });
  const node = world.namespaces.get(NODE);
  assert.ok(node !== undefined);
  assert.deepEqual(simulation.trackerOf(node).entries().map(({ zone }) => zone), [7]);
});

test('sets decide by the addresses and ports of a packet, and are not known where the snapshot does not have them', () => {
  const rules = '*filter\n-A FORWARD -m set --match-set hosts src,dst -j DROP\nCOMMIT\n';
  const ipSets = 'create hosts hash:net,port family inet hashsize 1024 maxelem 65536\nadd hosts 192.0.2.0/24,tcp:8080\nadd hosts 192.0.2.9/32,tcp:8080 nomatch\n';
  const end = (source: string, change: Partial<NetworkNamespace>): string => arrive(new Simulation(worldOf({ node: rules }, change)), null, NODE, 'eth0', draft(source, '10.1.0.2', tcp(8080)), { answers: false })[0]?.end.kind ?? 'nothing';
  assert.deepEqual([end('192.0.2.7', { ipSets }), end('192.0.2.9', { ipSets }), end('192.0.2.7', {})], ['dropped', 'delivered', 'unknown']);
});
