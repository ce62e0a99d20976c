import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { MeshProfile, ProfileOverrides } from '../../agent/protocol/acceleration.ts';
import { customizeProfile } from '../../agent/protocol/customProfile.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpPrefix, PortNumber } from '../../agent/protocol/scalars.ts';
import type { LabClient } from '../../agent/lab/client.ts';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { meshRules } from '../lab/meshRules.ts';
import { APPLICATION_IDENTITY } from '../../agent/lab/pod.ts';
import type { LabProxy, LabServer } from '../../agent/lab/pod.ts';
import { missingForKernel } from '../requirements.ts';
import { CONTEXT, observe, sightOf } from './datapathConversation.ts';

const PLAIN_PORT = 7_001;
const EXCLUDED_OUTBOUND_PORT = 7_002;
const EXCLUDED_INBOUND_PORT = 7_003;
const HBONE_PORT = 15_008;
/** Another address of the second pod, in the range that is excluded. */
const EXCLUDED_ADDRESS = toIpAddress('10.77.0.100');

interface Case {
  readonly title: string;
  readonly mesh: 'istio' | 'linkerd' | 'kuma' | 'osm';
  readonly overrides: ProfileOverrides;
  /** What the programs have to have decided at least once, so that it is a test. */
  readonly reasons: readonly string[];
}

const LISTS = {
  excludedOutboundPorts: [EXCLUDED_OUTBOUND_PORT] as PortNumber[],
  excludedInboundPorts: [EXCLUDED_INBOUND_PORT] as PortNumber[],
  excludedOutboundRanges: ['10.77.0.96/28' as IpPrefix],
};
const ALL_REDIRECTS = ['redirected_to_outbound', 'redirected_to_inbound', 'sidecar_to_application', 'passed_excluded_port', 'passed_loopback', 'passed_own_address'];

const CASES: readonly Case[] = [
  { title: 'Istio', mesh: 'istio', overrides: LISTS, reasons: [...ALL_REDIRECTS, 'passed_excluded_range'] },
  {
    title: 'Istio with lists of what is included',
    mesh: 'istio',
    overrides: {
      name: 'istio-included',
      excludedInboundPorts: [],
      includedInboundPorts: [PLAIN_PORT] as PortNumber[],
      includedOutboundPorts: [EXCLUDED_OUTBOUND_PORT] as PortNumber[],
      includedOutboundRanges: [`${EXCLUDED_ADDRESS}/32` as IpPrefix],
    },
    reasons: ['redirected_to_outbound', 'redirected_to_inbound', 'passed_not_included'],
  },
  {
    title: 'Istio with every IPv4 address excluded',
    mesh: 'istio',
    overrides: { excludedOutboundRanges: ['0.0.0.0/0' as IpPrefix] },
    reasons: ['redirected_to_inbound', 'passed_excluded_range'],
  },
  {
    title: 'Linkerd',
    mesh: 'linkerd',
    overrides: { excludedOutboundPorts: LISTS.excludedOutboundPorts, excludedInboundPorts: LISTS.excludedInboundPorts },
    reasons: ALL_REDIRECTS,
  },
  {
    title: 'Linkerd with every source excluded',
    mesh: 'linkerd',
    overrides: { excludedInboundRanges: ['0.0.0.0/0' as IpPrefix] },
    reasons: ['redirected_to_outbound', 'passed_excluded_range'],
  },
  { title: 'Kuma', mesh: 'kuma', overrides: LISTS, reasons: [...ALL_REDIRECTS, 'passed_excluded_range'] },
  { title: 'OSM', mesh: 'osm', overrides: LISTS, reasons: [...ALL_REDIRECTS, 'passed_excluded_range'] },
  {
    title: 'a mesh of other ports and users',
    mesh: 'istio',
    overrides: { name: 'my-mesh', outboundPort: 4_001 as PortNumber, inboundPort: 4_006 as PortNumber, proxyUid: 4_000, proxyGid: 4_000, passedGids: [4_000] },
    reasons: ['redirected_to_outbound', 'redirected_to_inbound', 'sidecar_to_application'],
  },
];

/** Everybody who can be met, in both pods. */
class Stage {
  readonly #clients: Readonly<Record<string, LabClient>>;
  readonly #servers: readonly LabServer[];
  readonly #proxies: readonly LabProxy[];

  private constructor(clients: Readonly<Record<string, LabClient>>, servers: readonly LabServer[], proxies: readonly LabProxy[]) {
    this.#clients = clients;
    this.#servers = servers;
    this.#proxies = proxies;
  }

  static async start(lab: Lab, profile: MeshProfile, listenAddress = '0.0.0.0'): Promise<Stage> {
    const sidecar = { uid: profile.proxyUid, gid: profile.proxyGid };
    const [application, sidecarClient, sidecarGroup, servers, proxies] = await Promise.all([
      lab.pod(0).startClient(),
      lab.pod(0).startClient({ identity: sidecar }),
      lab.pod(0).startClient({ identity: { uid: APPLICATION_IDENTITY.uid, gid: profile.proxyGid } }),
      Promise.all(
        lab.pods.flatMap((pod) => [PLAIN_PORT, EXCLUDED_OUTBOUND_PORT, EXCLUDED_INBOUND_PORT, HBONE_PORT].map((port) => pod.startServer({ port, address: listenAddress }))),
      ),
      Promise.all(
        lab.pods.map((pod) =>
          pod.startProxy({
            identity: sidecar,
            listenAddress,
            outboundPort: profile.outboundPort,
            inboundPort: profile.inboundPort,
            passthroughSource: profile.passthroughSource ?? '0.0.0.0',
            passthroughSourceV6: profile.passthroughSourceV6 ?? '::',
            ...(profile.connectsToLocalhost ? { applicationAddress: '127.0.0.1' } : {}),
          }),
        ),
      ),
    ]);
    return new Stage({ application, sidecar: sidecarClient, 'group of the sidecar': sidecarGroup }, servers, proxies);
  }

  /** Connects from every client to every destination; gives by `client → address:port` whom it met, and what they saw. */
  async visitAll(addresses: readonly string[]): Promise<Readonly<Record<string, unknown>>> {
    const seen: Record<string, unknown> = {};
    for (const [name, client] of Object.entries(this.#clients)) {
      for (const address of addresses) {
        for (const { port } of this.#servers.slice(0, 4)) {
          const visit = `${name} → ${address}:${port}`;
          seen[visit] = await this.#visit(client, address, port).catch((error: unknown) => Promise.reject(new Error(visit, { cause: error })));
        }
      }
    }
    return seen;
  }

  async #visit(client: LabClient, address: string, port: number): Promise<unknown> {
    const everybody = [...this.#servers, ...this.#proxies];
    const before = new Map(everybody.map((one) => [one, one.accepted.all.length]));
    const connection = await client.connect({ address, port });
    assert.equal((await connection.exchange(2_000)).exact, true, `${address}:${port}`);
    const { local, peer } = await connection.describe();
    await connection.close();
    await Promise.all(everybody.map(async ({ accepted, ended }) => ended.waitForCount(accepted.all.length)));
    return {
      client: { address: local.address, peer },
      servers: this.#servers.flatMap((server, index) =>
        server.accepted.all.slice(before.get(server)).map((connection) => ({ index, peer: connection.peer.address, local: connection.local })),
      ),
      proxies: this.#proxies.map((proxy) => sightOf(proxy.accepted.all.slice(before.get(proxy)))),
    };
  }
}

suite('the datapath under the rules of each mesh', { skip: missingForKernel() }, () => {
  for (const { title, mesh, overrides, reasons } of CASES) {
    test(`${title}: whoever connects where meets whom the rules lead to, and sees the same`, async () => {
      const profile = customizeProfile(mesh, overrides);
      const lab = await createLab({ rules: { text: meshRules(profile, 4, mesh) } });
      const { accelerator, programIds } = observe();
      try {
        await lab.pod(1).run('ip', ['address', 'add', `${EXCLUDED_ADDRESS}/24`, 'dev', 'eth0']);
        const stage = await Stage.start(lab, profile);
        const addresses = ['127.0.0.1', '127.0.0.2', lab.pod(0).address, lab.pod(1).address, EXCLUDED_ADDRESS];
        const underRules = await stage.visitAll(addresses);
        const pods = [lab.pod(0).enrolment, { ...lab.pod(1).enrolment, addresses: [lab.pod(1).address, EXCLUDED_ADDRESS] }];
        const info = await accelerator.turnAccelerationOn({ profile: mesh, overrides, pods }, CONTEXT);
        programIds.push(...info.programIds);
        assert.equal(info.profile, profile.name);
        assert.deepEqual(await stage.visitAll(addresses), underRules);
        const counters: Record<string, string> = await accelerator.countDecisions({ profile: profile.name }, CONTEXT);
        const missing = reasons.filter((reason) => counters[reason] === '0');
        assert.deepEqual(missing, [], JSON.stringify(counters));
        assert.equal(counters['passed_bind_failed'], '0');
      } finally {
        await accelerator.dispose();
        await lab.dispose();
      }
      await waitForNothingLeft({ labId: lab.id, programIds });
    });
  }
});

suite('the datapath over IPv6', { skip: missingForKernel() }, () => {
  for (const [mesh, isDualStack] of [['istio', true], ['linkerd', true], ['istio', false]] as const) {
    test(`${mesh}: IPv6, IPv4-mapped and dual-stack sockets see what they see under ip6tables and iptables${isDualStack ? '' : ', of pods that are enrolled with IPv6 alone'}`, async () => {
      const profile = customizeProfile(mesh, { excludedOutboundRanges: ['fd00:77::100/120' as IpPrefix] });
      const lab = await createLab({ rules: { text: meshRules(profile, 4) } });
      const { accelerator, events, programIds } = observe();
      try {
        const sources = lab.pods.map((_, index) => toIpAddress(`fd00:77::${11 + index}`));
        await Promise.all(
          lab.pods.map(async (pod, index) => {
            await pod.run('ip', ['-6', 'address', 'add', `${sources[index] ?? ''}/64`, 'dev', 'eth0', 'nodad']);
            await pod.run('ip', ['-6', 'address', 'add', '::6/128', 'dev', 'lo', 'nodad']);
            await pod.run('ip6tables-restore', [], meshRules(profile, 6));
          }),
        );
        const [own, other] = sources;
        assert.ok(own !== undefined && other !== undefined);
        const stage = await Stage.start(lab, profile, '::');
        const addresses = ['::1', own, other, `::ffff:${lab.pod(1).address}`, `::ffff:${lab.pod(0).address}`, '::ffff:127.0.0.1', lab.pod(1).address];
        const underRules = await stage.visitAll(addresses);
        const pods = lab.pods.map(({ enrolment }, index) => ({ ...enrolment, addresses: [...(isDualStack ? enrolment.addresses : []), ...sources.slice(index, index + 1)] }));
        const info = await accelerator.turnAccelerationOn({ profile: mesh, overrides: { excludedOutboundRanges: profile.excludedOutboundRanges }, pods }, CONTEXT);
        programIds.push(...info.programIds);
        assert.deepEqual(await stage.visitAll(addresses), underRules);
        const counters: Record<string, string> = await accelerator.countDecisions({ profile: mesh }, CONTEXT);
        for (const reason of ['redirected_to_outbound', 'redirected_to_inbound', 'sidecar_to_application', 'passed_loopback', 'passed_own_address', 'answered_peer_name']) {
          assert.notEqual(counters[reason], '0', `${reason}: ${JSON.stringify(counters)}`);
        }
        await accelerator.turnAccelerationOff({ cgroups: null }, CONTEXT);
        const originals = events.flatMap(({ hook, reason, original }) => (hook === 'connect6' && reason === 'redirected_to_outbound' ? [original?.address] : []));
        assert.deepEqual([originals.includes(other), originals.includes(lab.pod(1).address)], [true, isDualStack], JSON.stringify(originals));
        assert.deepEqual([counters['passed_bind_failed'], counters['message_passed_peer_missing'], counters['passed_not_configured'] === '0'], ['0', '0', isDualStack]);
      } finally {
        await accelerator.dispose();
        await lab.dispose();
      }
      await waitForNothingLeft({ labId: lab.id, programIds });
    });
  }
});
