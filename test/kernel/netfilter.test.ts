import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Endpoint, NamespaceId } from '../../agent/protocol/scalars.ts';
import type { NetworkNamespace, Snapshot } from '../../agent/protocol/snapshot.ts';
import { SNAPSHOT_FORMAT, SNAPSHOT_VERSION } from '../../agent/protocol/snapshot.ts';
import type { Trace, TraceStep } from '../../agent/protocol/trace.ts';
import { listNamespaces } from '../../agent/snapshot/namespaceList.ts';
import { readNamespace } from '../../agent/snapshot/networkNamespace.ts';
import { scanProcesses } from '../../agent/snapshot/processScan.ts';
import { joinPeers } from '../../agent/snapshot/takeSnapshot.ts';
import { explainIptables } from '../../simulator/explain/iptablesPath.ts';
import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import { RULE_SPELLINGS } from '../../simulator/netfilter/ruleSpellings.fixture.ts';
import type { Rule } from '../../simulator/netfilter/ruleSet.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import type { LabClient } from '../../agent/lab/client.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../../simulator/mesh/istioSidecar.ts';
import { formatSavedRules } from '../../simulator/mesh/savedRules.ts';
import type { Lab } from '../lab/lab.ts';
import { createLab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import type { LabPod, LabProxy, LabServer } from '../../agent/lab/pod.ts';
import { findCommand, missingForKernel } from '../requirements.ts';

/**
 * The kernel judges the simulator: the same rules and the same connection in real network namespaces and in the
 * simulator, made of a snapshot of those namespaces. Compared are what connect(2) says, every socket that takes a
 * connection with its peer and SO_ORIGINAL_DST, the rules that were hit, and the connections that conntrack keeps.
 */

const EMPTY_RULES = ['raw', 'mangle', 'nat', 'filter'].map((table) => `*${table}\nCOMMIT\n`).join('');
const SIDECAR = 1337;
const APPLICATION = 1000;
const PARTS = new Set(['links', 'sockets', 'routing', 'sysctls', 'rules', 'conntrack'] as const);

interface Scenario {
  readonly name: string;
  /** Rules of pod-a and pod-b in iptables-restore form; a table that is left out is empty. */
  readonly rules: (addresses: Addresses) => readonly [string, string];
  readonly uid: number;
  readonly destination: (addresses: Addresses) => readonly [string, number];
}

interface Addresses {
  readonly a: string;
  readonly b: string;
}

const ISTIO_RULES = formatSavedRules(generateIstioSidecarRules(ISTIO_INJECTED).ipv4);
const istio = (): readonly [string, string] => [ISTIO_RULES, ISTIO_RULES];
const toB = ({ b }: Addresses): readonly [string, number] => [b, 8080];

const SCENARIOS: readonly Scenario[] = [
  { name: "an application reaches another pod through both sidecars", rules: istio, uid: APPLICATION, destination: toB },
  { name: 'an application reaches its own pod over 127.0.0.1', rules: istio, uid: APPLICATION, destination: () => ['127.0.0.1', 9000] },
  { name: "an application reaches its own pod's address", rules: istio, uid: APPLICATION, destination: ({ a }) => [a, 9000] },
  { name: "what runs as the sidecar's user goes past its own sidecar", rules: istio, uid: SIDECAR, destination: toB },
  { name: "what runs as the sidecar's user is caught on the way to its own pod", rules: istio, uid: SIDECAR, destination: ({ a }) => [a, 9000] },
  { name: 'nothing listens behind the second sidecar', rules: istio, uid: APPLICATION, destination: ({ b }) => [b, 8081] },
  { name: 'nothing listens on this port of its own pod', rules: istio, uid: APPLICATION, destination: ({ a }) => [a, 9001] },
  { name: "the sidecar's own port is asked for", rules: istio, uid: APPLICATION, destination: ({ b }) => [b, 15_001] },
  { name: 'a port that the sidecar leaves alone', rules: istio, uid: SIDECAR, destination: ({ b }) => [b, 15_021] },
  { name: 'filter OUTPUT still sees the device of the first look-up after REDIRECT', rules: () => [`${ISTIO_RULES}*filter\n-A OUTPUT -o eth0 -p tcp --dport 15001 -j REJECT\nCOMMIT\n`, ISTIO_RULES], uid: APPLICATION, destination: toB },
  { name: 'filter OUTPUT does not see lo after REDIRECT', rules: () => [`${ISTIO_RULES}*filter\n-A OUTPUT -o lo -p tcp --dport 15001 -j REJECT\nCOMMIT\n`, ISTIO_RULES], uid: APPLICATION, destination: toB },
  { name: 'filter INPUT sees the port after REDIRECT, and never the one before', rules: () => [ISTIO_RULES, `${ISTIO_RULES}*filter\n-A INPUT -i eth0 -p tcp --dport 8080 -j DROP\n-A INPUT -i eth0 -p tcp --dport 15006 -j ACCEPT\nCOMMIT\n`], uid: APPLICATION, destination: toB },
  { name: 'an untracked packet is not translated', rules: () => [`*raw\n-A OUTPUT -p tcp --dport 8080 -j CT --notrack\nCOMMIT\n${ISTIO_RULES}`, ISTIO_RULES], uid: APPLICATION, destination: toB },
  { name: 'marks lead through goto, RETURN and CONNMARK', rules: () => [
    '*mangle\n:MARKS - [0:0]\n:MORE - [0:0]\n-A OUTPUT -p tcp -m multiport --dports 80,8000:8090 -j MARKS\n-A OUTPUT -m mark --mark 0x10/0xf0 -j CONNMARK --save-mark\n-A MARKS -j MARK --set-mark 0x1f\n-A MARKS -g MORE\n-A MARKS -j MARK --set-mark 0x0\n-A MORE -m owner --uid-owner 500-1999 -m comment --comment "it\'s \\"mine\\"" -j RETURN\n-A MORE -j MARK --set-mark 0x0\nCOMMIT\n' +
      '*nat\n-A OUTPUT -p tcp -m connmark --mark 0x1f -m addrtype ! --dst-type LOCAL -j REDIRECT --to-ports 9000\nCOMMIT\n', ''], uid: APPLICATION, destination: toB },
  { name: 'DNAT sends an address that nobody has to the other pod', rules: ({ b }) => [`*nat\n-A OUTPUT ! -s 127.0.0.0/8 -d 10.77.0.200/32 -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j DNAT --to-destination ${b}:8080\nCOMMIT\n`, ''], uid: APPLICATION, destination: () => ['10.77.0.200', 80] },
  { name: 'a nat table without NAT rules does not switch conntrack on', rules: () => ['*nat\n:X - [0:0]\n-A OUTPUT -j X\n-A X -p tcp -j RETURN\nCOMMIT\n', '*nat\n-A PREROUTING -j RETURN\nCOMMIT\n'], uid: APPLICATION, destination: toB },
  { name: 'a NAT rule that nothing reaches does', rules: () => ['*nat\n:X - [0:0]\n-A OUTPUT -p tcp -j RETURN\n-A X -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n', '*nat\n-A PREROUTING -p udp -j REDIRECT --to-ports 1\nCOMMIT\n'], uid: APPLICATION, destination: toB },
  { name: 'SNAT and MASQUERADE change the source', rules: () => ['*nat\n-A POSTROUTING -o eth0 -p tcp -j MASQUERADE\nCOMMIT\n', '*nat\n-A INPUT -p tcp -j SNAT --to-source 10.77.0.201\nCOMMIT\n'], uid: APPLICATION, destination: toB },
  { name: 'REJECT with tcp-reset behind the first sidecar', rules: () => [ISTIO_RULES, `${ISTIO_RULES}*filter\n-A INPUT -p tcp -m tcp --dport 15006 --syn -j REJECT --reject-with tcp-reset\nCOMMIT\n`], uid: SIDECAR, destination: toB },
  { name: 'REJECT with host-prohibited', rules: () => ['*filter\n-A OUTPUT -p tcp --dport 8080 -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n', ''], uid: APPLICATION, destination: toB },
  { name: 'the answer is dropped', rules: () => ['', '*filter\n-A OUTPUT -p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j DROP\nCOMMIT\n'], uid: APPLICATION, destination: toB },
  { name: 'a policy drops what no rule accepts', rules: () => ['', '*filter\n:INPUT DROP [0:0]\n-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT\n-A INPUT -p tcp ! --dport 8080 -j ACCEPT\nCOMMIT\n'], uid: APPLICATION, destination: toB },
  { name: 'nobody has the address', rules: () => ['', ''], uid: APPLICATION, destination: () => ['10.77.0.99', 8080] },
];

const skip = missingForKernel();
const BACKENDS = ['nft', 'legacy'] as const;

for (const backend of BACKENDS) {
  const restore = `iptables-${backend}-restore`;
  const missing = skip === false && findCommand(restore) === undefined ? `needs ${restore}` : skip;
  describe(`the simulator and the kernel agree (${backend})`, { skip: missing, concurrency: false }, () => {
    judge(backend);
  });
}

function judge(backend: (typeof BACKENDS)[number]): void {
  const restore = `iptables-${backend}-restore`;
  let lab: Lab;
  let stations: Station[];

  before(async () => {
    lab = await createLab({ rules: 'none' });
    const [a, b] = [lab.pod(0), lab.pod(1)];
    const [proxyA, serverA, proxyB, serverB, probeB] = await Promise.all([
      a.startProxy(), a.startServer({ port: 9000 }), b.startProxy(), b.startServer({ port: 8080 }), b.startServer({ port: 15_021, identity: { uid: SIDECAR, gid: SIDECAR } }),
    ]);
    stations = [station(a, proxyA), station(a, serverA), station(b, proxyB), station(b, serverB), station(b, probeB)];
    for (const pod of lab.pods) {
      // Two SYNs instead of seven, so that waiting for nothing takes three seconds; who has no neighbour is told before.
      await pod.run('sysctl', ['-q', '-w', 'net.ipv4.tcp_syn_retries=1', 'net.ipv4.neigh.eth0.retrans_time_ms=200']);
    }
  });

  after(async () => {
    await lab.dispose();
    await waitForNothingLeft({ labId: lab.id, programIds: [] });
  });

  test('iptables prints rules as the simulator does', async () => {
    const pod = lab.pod(0);
    const tables = [...new Set(RULE_SPELLINGS.map(({ table }) => table))];
    const text = tables.map((table) => {
      const rules = RULE_SPELLINGS.filter((spelling) => spelling.table === table).map(({ chain, written }) => `-A ${chain} ${written}\n`);
      return `*${table}\n:NEXT - [0:0]\n${rules.join('')}COMMIT\n`;
    });
    await pod.run(restore, [], text.join(''));
    const saved = (await pod.run(`iptables-${backend}-save`, [])).split('\n');
    for (const { chain, saved: expected } of RULE_SPELLINGS) {
      assert.ok(saved.includes(`-A ${chain} ${expected}`), `${expected}\nis not in\n${saved.join('\n')}`);
    }
  });

  for (const scenario of SCENARIOS) {
    test(scenario.name, { timeout: 60_000 }, async (context) => {
      const [a, b] = [lab.pod(0), lab.pod(1)];
      const addresses = { a: a.address, b: b.address };
      const texts = scenario.rules(addresses);
      for (const [pod, text] of [[a, texts[0]], [b, texts[1]]] as const) {
        await waitUntil(async () => (await openSockets(pod)) === '');
        await pod.run(restore, [], EMPTY_RULES);
        await pod.run(restore, ['--noflush'], text);
        await pod.run('conntrack', ['-F']);
      }
      const [address, port] = scenario.destination(addresses);
      const destination: Endpoint = { address: toIpAddress(address), port: toPortNumber(port) };
      const trace = predict(await snapshotOf(lab), a, scenario.uid, destination);

      const counts = stations.map(({ reports }) => reports.all.length);
      const client = await a.startClient({ identity: { uid: scenario.uid, gid: scenario.uid } });
      context.after(() => client.stop());
      assert.equal(predictedErrno(trace), await connect(client, destination), JSON.stringify(trace.outcome));
      const expected = trace.legs.filter((leg) => leg.server !== null).map((leg) => legText(trace, leg));
      await waitUntil(() => stations.reduce((sum, { reports }, index) => sum + reports.all.length - (counts[index] ?? 0), 0) >= expected.length);
      // What should not come is given time to come.
      await delay(100);
      const taken = stations.flatMap(({ namespace, reports }, index) => reports.all.slice(counts[index]).map((report) => reportText(namespace, report)));
      assert.deepEqual(taken.toSorted(), expected.toSorted());

      const namespaces = await readNamespaces(lab);
      for (const pod of [a, b]) {
        const namespace = namespaces.find(({ id }) => id === pod.namespaceId);
        assert.ok(namespace !== undefined);
        compareHits(trace, pod, namespace);
        compareConnections(trace, namespace);
      }
    });
  }
}

/** Connections that may still send something: what comes late would be counted for the next scenario. */
async function openSockets(pod: LabPod): Promise<string> {
  const lines = (await pod.run('ss', ['-Htn', 'state', 'connected'])).split('\n');
  return lines.filter((line) => line !== '' && !line.startsWith('TIME-WAIT')).join('\n');
}

/** A socket of the lab that takes connections. */
interface Station {
  readonly namespace: NamespaceId;
  readonly reports: { readonly all: readonly StationReport[] };
}

interface StationReport {
  readonly local: Endpoint;
  readonly peer: Endpoint;
  readonly originalDestination?: Endpoint | null;
}

function station(pod: LabPod, listener: LabProxy | LabServer): Station {
  return { namespace: pod.namespaceId, reports: listener.accepted };
}

/** What a station reports as text: only proxies ask for the original destination. */
function reportText(namespace: NamespaceId, report: StationReport): string {
  const original = report.originalDestination === undefined ? '' : ` for ${endpointText(report.originalDestination)}`;
  return `${namespace} ${endpointText(report.local)} from ${report.peer.address}${original}`;
}

function legText(trace: Trace, leg: Trace['legs'][number]): string {
  const { server } = leg;
  const accepted = trace.steps.find((step) => step.leg === leg.index && step.phase === 'accept');
  assert.ok(server !== null && accepted !== undefined);
  const isProxy = server.address.port === 15_001 || server.address.port === 15_006;
  const original = isProxy ? ` for ${endpointText(leg.originalDestination)}` : '';
  return `${server.namespace} ${endpointText(server.address)} from ${accepted.after.source.address}${original}`;
}

function endpointText(endpoint: Endpoint | null): string {
  return endpoint === null ? 'nothing' : `${endpoint.address}:${endpoint.port}`;
}

/** Connects and gives the errno that connect(2) gave, null where it succeeded. */
async function connect(client: LabClient, destination: Endpoint): Promise<string | null> {
  try {
    const { peer } = await client.connect(destination);
    assert.deepEqual(peer, destination);
    return null;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined || code === 'ERR_ASSERTION') {
      throw error;
    }
    // The connection was opened and reset before the client looked at it: a sidecar answers so where it cannot go on.
    return code === 'ENOTCONN' || code === 'ECONNRESET' ? null : code;
  }
}

/** What connect(2) of the first leg says: only there does the client of the scenario see it. */
function predictedErrno(trace: Trace): string | null {
  const [first] = trace.legs;
  assert.ok(first !== undefined);
  if (first.server !== null) {
    return null;
  }
  assert.equal(trace.outcome.result, 'refused', trace.outcome.summary);
  return /gets (E[A-Z]+):/.exec(trace.outcome.summary)?.[1] ?? 'none';
}

function predict(snapshot: Snapshot, pod: LabPod, uid: number, destination: Endpoint): Trace {
  const source = { kind: 'process', namespace: pod.namespaceId, cgroup: pod.cgroup, uid, gid: uid, address: null, port: null } as const;
  const world = buildWorld(snapshot);
  const trace = explainIptables(world, { protocol: 'tcp', source, destination });
  assert.deepEqual(explainIptables(world, { protocol: 'tcp', source, destination }), trace, 'the same again');
  return trace;
}

async function snapshotOf(lab: Lab): Promise<Snapshot> {
  return {
    format: SNAPSHOT_FORMAT,
    formatVersion: SNAPSHOT_VERSION,
    takenAt: new Date().toISOString(),
    node: { hostname: 'lab', kernelRelease: '', machine: '', kind: 'linux' },
    namespaces: await readNamespaces(lab),
    pods: lab.pods.map((pod) => ({ name: pod.name, namespace: pod.namespaceId, cgroups: [pod.cgroup], addresses: pod.addresses, profile: 'istio' })),
    cgroups: [],
    bpf: { programs: [], maps: [], links: [], contents: [] },
    accelerations: [],
    omissions: [],
  };
}

async function readNamespaces(lab: Lab): Promise<readonly NetworkNamespace[]> {
  const { signal } = new AbortController();
  const scan = await scanProcesses(signal);
  const ids = new Set([lab.routerNamespaceId, ...lab.pods.map((pod) => pod.namespaceId)]);
  const handles = listNamespaces(scan.processes).namespaces.filter(({ id }) => ids.has(id));
  assert.equal(handles.length, ids.size);
  return joinPeers(await Promise.all(handles.map((handle) => readNamespace(handle, PARTS, scan, signal))));
}

/**
 * Every rule that the trace says was matched was hit, and in nat, which sees one packet of each connection, exactly as
 * often; a rule of nat that was hit was in the trace.
 */
function compareHits(trace: Trace, pod: LabPod, namespace: NetworkNamespace): void {
  const predicted = new Map<string, number>();
  for (const step of trace.steps) {
    const key = matchedRule(step, pod.namespaceId);
    if (key !== null) {
      predicted.set(key, (predicted.get(key) ?? 0) + 1);
    }
  }
  const [ruleSet] = namespace.ruleSets.filter(({ family }) => family === 'ipv4');
  const parsed = readRuleSet(ruleSet?.text ?? '');
  assert.deepEqual(parsed.problems, []);
  for (const table of parsed.tables) {
    for (const chain of table.chains.values()) {
      for (const [index, rule] of chain.rules.entries()) {
        const key = `${table.name} ${chain.name} ${index + 1}`;
        const hits = Number(rule.counters?.packets ?? 0n);
        const expected = predicted.get(key) ?? 0;
        assertHits(table.name, rule, expected, hits, `${pod.name} ${key}`);
        predicted.delete(key);
      }
    }
  }
  assert.deepEqual([...predicted], [], 'rules that the kernel does not have');
}

function assertHits(table: string, rule: Rule, expected: number, hits: number, where: string): void {
  if (table === 'nat' && expected <= 1 && hits <= 1) {
    assert.equal(hits, expected, `${where}: ${rule.text}`);
  } else {
    // A SYN that is not answered is sent again, and other tables see every packet.
    assert.ok(expected === 0 ? table !== 'nat' || hits === 0 : hits >= expected, `${where}: ${rule.text}: ${hits} hits, ${expected} predicted`);
  }
}

function matchedRule(step: TraceStep, namespace: NamespaceId): string | null {
  const { place } = step;
  const matched = place.kind === 'rule' && place.namespace === namespace && place.rule !== null && step.conditions.every(({ result }) => result === 'matched');
  return matched ? `${place.table} ${place.chain} ${place.rule}` : null;
}

/** conntrack of the server's namespace keeps each leg with the translation that the trace tells. */
function compareConnections(trace: Trace, namespace: NetworkNamespace): void {
  for (const leg of trace.legs) {
    const { server, originalDestination } = leg;
    if (server?.namespace !== namespace.id) {
      continue;
    }
    const found = namespace.conntrack.filter(
      ({ protocol, original, reply }) => protocol === 'tcp' && (originalDestination === null || endpointText(original.destination) === endpointText(originalDestination)) && endpointText(reply.source) === endpointText(server.address),
    );
    assert.equal(found.length, originalDestination === null ? 0 : 1, `${leg.title}: ${JSON.stringify(namespace.conntrack)}`);
  }
}

async function waitUntil(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await condition()) && tries < 100; tries += 1) {
    await delay(50);
  }
}
