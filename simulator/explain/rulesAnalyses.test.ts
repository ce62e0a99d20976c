import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { RuleSet, Snapshot } from '../../agent/protocol/snapshot.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../mesh/istioSidecar.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import { deriveWorld } from '../world/derivedWorld.ts';
import { createWorldSnapshot, DESCRIBED_NAMESPACE } from '../world/describedWorld.ts';
import { buildWorld } from '../world/world.ts';
import { readWorldFile } from '../world/worldFile.ts';
import { explainFlow } from './explainRules.ts';
import type { FlowExplanation } from './explainRules.ts';
import { compareFlows } from './flowDifference.ts';
import { parsePacketFlow } from './packetFlowText.ts';
import { countRuleUses } from './ruleCoverage.ts';
import type { SourceRange } from './sourcePartition.ts';
import { partitionSources } from './sourcePartition.ts';

const ISTIO = generateIstioSidecarRules(ISTIO_INJECTED).ipv4;

function snapshotFor(rules: string, flows: readonly string[]): Snapshot {
  const ruleSets: readonly RuleSet[] = [{ family: 'ipv4', backend: 'nft', text: rules }];
  const { world } = deriveWorld(flows.map((flow) => parsePacketFlow(flow, DESCRIBED_NAMESPACE)), [readRuleSet(rules)]);
  return createWorldSnapshot(world, { ruleSets, ipSets: null });
}

function explain(rules: string, flow: string): FlowExplanation {
  return explainFlow(buildWorld(snapshotFor(rules, [flow])), parsePacketFlow(flow, DESCRIBED_NAMESPACE));
}

const filter = (...rules: readonly string[]): string => ['*filter', ':INPUT DROP [0:0]', ':FORWARD ACCEPT [0:0]', ':OUTPUT ACCEPT [0:0]', ...rules, 'COMMIT', ''].join('\n');

test("what an application sends under Istio's rules ends at its sidecar, which learns where it was meant for", () => {
  const { outcome, journeys, steps } = explain(ISTIO, 'tcp > 10.1.0.3:8080 out uid 1000');
  assert.equal(outcome.result, 'delivered');
  const end = journeys[0]?.end;
  assert.ok(end?.kind === 'delivered');
  assert.deepEqual([end.packet.destination, end.socket?.info.local.port, end.originalDestination], ['127.0.0.1', 15_001, { address: '10.1.0.3', port: 8080 }]);
  assert.ok(steps.some(({ place, decision }) => place.kind === 'rule' && place.text.includes('--to-ports 15001') && decision.kind === 'rewrite'));
});

test('what leaves this machine got through; what its answers meet counts too', () => {
  assert.equal(explain(ISTIO, 'tcp > 10.1.0.3:8080 out uid 1337').outcome.result, 'delivered');
  assert.equal(explain(filter('-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT'), 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0').outcome.result, 'delivered');
  const stuck = explain(`*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n`, 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0');
  assert.equal(stuck.outcome.result, 'refused');
  assert.match(stuck.outcome.summary, /drops the packet \('policy of OUTPUT'\) \(the packet from 10\.1\.0\.3 to 10\.1\.0\.2\)/);
  assert.equal(explain(filter(), 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0').outcome.result, 'refused');
  assert.equal(explain(filter('-A INPUT -m string --algo bm --string x -j ACCEPT'), 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0').outcome.result, 'depends');
});

test('an answer depends on a match that is not known only where what it changes is asked for', () => {
  const mangle = (rule: string): string => `*mangle\n-A PREROUTING -m string --algo bm --string x -j ${rule}\nCOMMIT\n`;
  const result = (rules: string): string => explain(rules, 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0').outcome.result;
  const open = filter('-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT');
  assert.equal(result(mangle('MARK --set-mark 7') + open), 'delivered');
  assert.equal(result(mangle('CONNMARK --set-mark 7') + open), 'delivered');
  assert.equal(result(mangle('MARK --set-mark 7') + filter('-A INPUT -m mark --mark 0x7 -j ACCEPT')), 'depends');
  assert.equal(result(mangle('CONNMARK --set-mark 7') + filter('-A INPUT -m connmark --mark 0x7 -j ACCEPT')), 'depends');
  assert.equal(result(mangle('ACCEPT') + open), 'delivered');
});

test('a single packet is as it was described', () => {
  const { journeys, outcome } = explain(filter('-A INPUT -p tcp -m tcp --tcp-flags ALL FIN,URG -m ttl --ttl-eq 9 -j ACCEPT'), 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0 flags FIN,URG ttl 9');
  assert.notEqual(journeys[0]?.end.kind, 'dropped');
  assert.notEqual(outcome.result, 'depends');
  assert.equal(explain(filter('-A INPUT -p tcp -m ttl --ttl-eq 9 -j ACCEPT'), 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0 ttl 8').outcome.result, 'refused');
});

test('rules are counted by the packets that met and matched them, rules that none met with zeros', () => {
  const flows = ['tcp > 10.1.0.3:8080 out uid 1000', 'tcp 10.1.0.2:4000 > 10.1.0.9:8080 in eth0'];
  const snapshot = snapshotFor(ISTIO, flows);
  const traces = flows.map((flow) => explainFlow(buildWorld(snapshot), parsePacketFlow(flow, DESCRIBED_NAMESPACE)).steps);
  const uses = countRuleUses(snapshot.namespaces[0]?.ruleSets ?? [], traces);
  const of = (text: string): readonly number[] => uses.filter((use) => use.text === text).flatMap(({ compared, matched, unknown }) => [compared, matched, unknown]);
  assert.equal(uses.length, 18);
  assert.deepEqual(of('-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001'), [1, 1, 0]);
  assert.deepEqual(of('-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN'), [1, 0, 0]);
  assert.deepEqual(countRuleUses(snapshot.namespaces[0]?.ruleSets ?? [], []).map(({ compared }) => compared), uses.map(() => 0));
});

test('two rule sets differ for a flow where somebody outside could tell', () => {
  const changed = generateIstioSidecarRules({ ...ISTIO_INJECTED, excludedOutboundPorts: [8080] }).ipv4;
  const compare = (flow: string): ReturnType<typeof compareFlows> => compareFlows(explain(ISTIO, flow), explain(changed, flow));
  const moved = compare('tcp > 10.1.0.3:8080 out uid 1000');
  assert.equal(moved.result, 'different');
  assert.match(moved.differences.join(' '), /Packet 1 reaches port 15001 .*; now it leaves by eth0 as 10\.1\.0\.1:40000 → 10\.1\.0\.3:8080/);
  assert.ok(moved.onlyBefore.some(({ text }) => text.includes('15001')));
  assert.deepEqual([compare('tcp > 10.1.0.3:8081 out uid 1000').result, compare('tcp > 10.1.0.3:8081 out uid 1000').differences], ['same', []]);
  const unknown = filter('-A INPUT -m string --algo bm --string x -j ACCEPT');
  const flow = 'tcp 10.1.0.2:5 > 10.1.0.3:80 in eth0';
  assert.equal(compareFlows(explain(unknown, flow), explain(unknown, flow)).result, 'unknown');
});

const WORLD = readWorldFile(JSON.stringify({
  links: [{ name: 'eth0', addresses: ['10.1.0.3/24'] }, { name: 'eth1', addresses: ['192.0.2.3/24'] }],
  routes: ['default via 10.1.0.1 dev eth0'],
  sockets: [{ listen: 'tcp 0.0.0.0:22', command: 'sshd' }],
}));

function partition(rules: string, options: { readonly devices?: readonly string[]; readonly ipSets?: string } = {}): readonly SourceRange[] {
  const snapshot = createWorldSnapshot(WORLD, { ruleSets: [{ family: 'ipv4', backend: 'nft', text: rules }], ipSets: options.ipSets ?? null });
  return partitionSources(buildWorld(snapshot), { namespace: DESCRIBED_NAMESPACE, protocol: 'tcp', destination: { address: toIpAddress('10.1.0.3'), port: toPortNumber(22) }, devices: options.devices ?? ['eth0'] });
}

/** What a source fares like, by the ranges. */
function fateOf(ranges: readonly SourceRange[], address: string, device = 'eth0'): string | undefined {
  const value = (text: string): number => text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  return ranges.find((range) => range.device === device && value(range.first) <= value(address) && value(address) <= value(range.last))?.result;
}

test('sources are cut where rules name addresses, ports and devices, and nowhere is a hole', () => {
  const rules = filter(
    '-A INPUT -s 10.66.6.6/32 -j DROP',
    '-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT',
    '-A INPUT -i eth1 -p tcp -m multiport --dports 22,80 -j ACCEPT',
    '-A INPUT -s 192.168.0.0/16 -p tcp -m tcp --dport 22 -m limit --limit 3/min -j ACCEPT',
    '-A INPUT -s 172.16.0.0/12 -p tcp -m tcp --sport 1000:2000 --dport 22 -j ACCEPT',
    '-A INPUT -p tcp -m iprange --src-range 198.51.100.7-198.51.100.9 -j ACCEPT',
  );
  const ranges = partition(rules, { devices: ['eth0', 'eth1'] });
  assert.deepEqual(
    ['10.66.6.5', '10.66.6.6', '10.66.6.7', '11.0.0.1', '192.168.3.4', '172.20.1.1', '127.0.0.1', '10.1.0.3', '198.51.100.6', '198.51.100.7', '198.51.100.9', '198.51.100.10', '224.0.0.1'].map((address) => fateOf(ranges, address)),
    ['reaches', 'blocked', 'reaches', 'blocked', 'depends', 'depends', 'blocked', 'blocked', 'blocked', 'reaches', 'reaches', 'blocked', 'blocked'],
  );
  assert.deepEqual([fateOf(ranges, '11.0.0.1', 'eth1'), fateOf(ranges, '10.66.6.6', 'eth1')], ['reaches', 'blocked']);
  for (const device of ['eth0', 'eth1']) {
    const own = ranges.filter((range) => range.device === device);
    assert.deepEqual([own[0]?.first, own.at(-1)?.last], ['0.0.0.0', '255.255.255.255']);
    const value = (text: string): number => text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
    own.slice(1).forEach((range, index) => {
      assert.equal(value(range.first), value(own[index]?.last ?? '') + 1);
    });
  }
});

test('every address of a range fares as the one that was tried', () => {
  const rules = filter('-A INPUT -s 10.0.0.0/9 -j DROP', '-A INPUT -s 10.128.0.0/10 -j ACCEPT', '-A INPUT ! -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT', '-A INPUT -m addrtype --src-type BROADCAST -j ACCEPT');
  const snapshot = createWorldSnapshot(WORLD, { ruleSets: [{ family: 'ipv4', backend: 'nft', text: rules }], ipSets: null });
  for (const range of partition(rules)) {
    const ends = [range.first, range.last].map((address) => {
      const flow = parsePacketFlow(`tcp ${address}:40000 > 10.1.0.3:22 in eth0`, DESCRIBED_NAMESPACE);
      return explainFlow(buildWorld(snapshot), flow).journeys[0]?.end.kind;
    });
    assert.equal(ends[0], ends[1], `${range.first} to ${range.last}`);
  }
});

test('a mask with holes, and NAT that chooses, are depended on', () => {
  assert.equal(fateOf(partition(filter('-A INPUT -s 10.0.7.0/255.0.255.0 -j ACCEPT')), '10.5.7.1'), 'depends');
  const nat = `*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 22 -j DNAT --to-destination 10.1.0.3-10.1.0.4\nCOMMIT\n`;
  assert.equal(fateOf(partition(nat), '11.0.0.1'), 'depends');
});

test('too many ranges are refused', () => {
  const rules = filter(...Array.from({ length: 400 }, (_, index) => `-A INPUT -s 10.${index % 256}.${Math.trunc(index / 256)}.1/32 -p tcp -m tcp --sport ${index * 20} -j ACCEPT`));
  assert.throws(() => partition(rules), { code: 'LIMIT_EXCEEDED' });
});
