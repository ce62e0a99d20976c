import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NamespaceId } from '../../agent/protocol/scalars.ts';
import { parsePacketFlow } from '../explain/packetFlowText.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../mesh/istioSidecar.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import { deriveWorld } from './derivedWorld.ts';

function derive(texts: readonly string[], rules = ''): { readonly links: readonly string[]; readonly sockets: readonly string[]; readonly routes: readonly string[]; readonly forwards: boolean; readonly assumptions: readonly string[] } {
  const { world, assumptions } = deriveWorld(texts.map((text) => parsePacketFlow(text, '1' as NamespaceId)), [readRuleSet(rules)]);
  return {
    links: world.links.map(({ name, addresses }) => [name, ...addresses.map(({ address, prefixLength }) => `${address}/${prefixLength}`)].join(' ')),
    sockets: world.sockets.map(({ protocol, local, uid }) => `${protocol} ${local.port} ${uid}`),
    routes: world.routes.map(({ family, device }) => `${family} ${device ?? ''}`),
    forwards: world.sysctls['net.ipv4.ip_forward'] === '1',
    assumptions,
  };
}

test('what arrives is for this machine, where somebody listens', () => {
  const { links, sockets, routes, forwards, assumptions } = derive(['tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0']);
  assert.deepEqual({ links, sockets, routes, forwards }, { links: ['eth0 10.1.0.3/24'], sockets: ['tcp 8080 1000'], routes: ['ipv4 eth0'], forwards: false });
  assert.deepEqual(assumptions, [
    'eth0 has 10.1.0.3/24.',
    'IPv4 goes to the rest of the world by eth0.',
    'Somebody listens on tcp port 8080 (application, uid 1000).',
    'The machine does not forward; the reverse path is not checked (rp_filter is 0).',
  ]);
});

test('what leaves by another device is forwarded, for both families', () => {
  const { links, sockets, forwards, routes } = derive(['tcp 10.1.0.1:4000 > 10.2.0.1:80 in eth0 out eth1', 'udp [fd00::2]:5 > [fd01::2]:53 in eth0 out eth1']);
  assert.deepEqual(links, ['eth1 10.2.0.2/24 fd01::1/64', 'eth0 10.1.0.2/24 fd00::1/64']);
  assert.deepEqual({ sockets, forwards, routes }, { sockets: [], forwards: true, routes: ['ipv4 eth1', 'ipv6 eth1'] });
});

test('what a process sends leaves by eth0, and stays where it is for itself', () => {
  assert.deepEqual(derive(['tcp > 10.1.0.3:80 out uid 5']).links, ['eth0 10.1.0.1/24']);
  assert.deepEqual(derive(['tcp 10.1.0.7 > 10.9.0.3:80 out net1']).links, ['net1 10.1.0.7/24']);
  const loopback = derive(['tcp > 127.0.0.1:80 out']);
  assert.deepEqual([loopback.links, loopback.sockets], [['eth0'], ['tcp 80 1000']]);
  assert.deepEqual(derive(['udp 10.1.0.7 > 10.1.0.7:53 out']).sockets, ['udp 53 1000']);
});

test('whoever rules redirect to is there, as the user that they leave alone', () => {
  const rules = generateIstioSidecarRules({ ...ISTIO_INJECTED, proxyUids: ['1500'], proxyGids: ['1500'] }).ipv4;
  assert.deepEqual(derive(['tcp > 10.1.0.3:80 out uid 5'], rules).sockets.toSorted(), ['tcp 15001 1500', 'tcp 15006 1500']);
});

test('under the rules of a router, private addresses reach public ones, and hosts are where rules say', () => {
  const rules = `*nat
-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
-A FORWARD -d 172.17.0.2 -o docker0 -p tcp --dport 80 -j ACCEPT
COMMIT
`;
  const published = derive(['tcp 192.0.2.7:4000 > 10.0.0.5:8080 in eth0'], rules);
  assert.deepEqual([published.links, published.routes, published.forwards], [['eth0 10.0.0.5/24 192.0.2.1/24', 'docker0 172.17.0.1/24'], ['ipv4 eth0'], true]);
  const outbound = derive(['tcp 172.17.0.2:4000 > 198.51.100.1:443 in docker0'], rules);
  assert.deepEqual([outbound.links, outbound.sockets, outbound.routes], [['docker0 172.17.0.1/24', 'eth0'], [], ['ipv4 eth0']]);
  assert.deepEqual(derive(['tcp 172.17.0.2:4000 > 172.17.0.1:443 in docker0'], rules).sockets, ['tcp 443 1000']);
});

test('programs have joined the groups that flows arrive for', () => {
  const { world, assumptions } = deriveWorld([parsePacketFlow('udp 10.1.0.2:5353 > 224.0.0.251:5353 in eth0', '1' as NamespaceId)], [readRuleSet('')]);
  assert.deepEqual(world.links.map(({ groups }) => groups), [['224.0.0.251']]);
  assert.ok(assumptions.includes('Programs have joined 224.0.0.251.'));
});
