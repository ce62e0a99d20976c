import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { Lab } from '../../agent/lab/lab.ts';
import { SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import type { ProgramIdentity } from '../../agent/lab/programs/reports.ts';
import type { DecisionReason, PodEnrolment, ProfileOverrides } from '../../agent/protocol/acceleration.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../../simulator/mesh/istioSidecar.ts';
import { createLab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { missingForKernel } from '../requirements.ts';
import type { DatagramEnd, DatagramResult, DatagramStep } from './datagramClient.ts';
import { startDatagramClient, startDnsServer } from './datagramPrograms.ts';
import type { DnsServer } from './datagramPrograms.ts';
import { CONTEXT, observe } from './datapathConversation.ts';
import type { Observed } from './datapathConversation.ts';

const ROOT_IDENTITY: ProgramIdentity = { uid: 0, gid: 0 };
/** Resolvers in the last pod, which is not accelerated. */
const RESOLVERS = ['10.77.0.53', '10.77.0.54', '10.77.0.55'] as const;
const RESOLVERS_6 = ['fd00:77::53', 'fd00:77::54'] as const;
const [FIRST, SECOND, THIRD] = RESOLVERS;
const [FIRST_6, SECOND_6] = RESOLVERS_6;
/** Ports from here on are chosen by the kernel. */
const FIRST_EPHEMERAL_PORT = 32_768;

const at53 = (address: string): DatagramEnd => ({ address, port: 53 });

/** Two pods with a sidecar that answers DNS each, and one with resolvers, in a lab. */
class Stage {
  readonly lab: Lab;
  readonly sidecars: readonly DnsServer[];
  readonly upstream: DnsServer;

  private constructor(lab: Lab, sidecars: readonly DnsServer[], upstream: DnsServer) {
    this.lab = lab;
    this.sidecars = sidecars;
    this.upstream = upstream;
  }

  static async start(rules: { readonly ipv4: string; readonly ipv6: string } | null): Promise<Stage> {
    const lab = await createLab({ pods: 3, rules: 'none' });
    try {
      await Promise.all(
        lab.pods.map(async (pod, index) => {
          await pod.run('ip', ['-6', 'address', 'add', `fd00:77::${11 + index}/64`, 'dev', 'eth0', 'nodad']);
          if (index < 2 && rules !== null) {
            await pod.run('iptables-restore', ['--noflush'], rules.ipv4);
            await pod.run('ip6tables-restore', ['--noflush'], rules.ipv6);
          }
        }),
      );
      const last = lab.pod(2);
      for (const address of RESOLVERS) {
        await last.run('ip', ['address', 'add', `${address}/24`, 'dev', 'eth0']);
      }
      for (const address of RESOLVERS_6) {
        await last.run('ip', ['-6', 'address', 'add', `${address}/64`, 'dev', 'eth0', 'nodad']);
      }
      const [upstream, ...sidecars] = await Promise.all([
        startDnsServer(last, { identity: ROOT_IDENTITY, name: 'upstream', addresses: [...RESOLVERS, ...RESOLVERS_6], port: 53, answer: '192.0.2.53' }),
        ...[0, 1].map((index) =>
          startDnsServer(lab.pod(index), {
            identity: SIDECAR_IDENTITY,
            name: `sidecar ${index}`,
            addresses: ['127.0.0.1', '::1'],
            port: ISTIO_PROFILE.dnsPort ?? 0,
            answer: `192.0.2.${index + 1}`,
          }),
        ),
      ]);
      return new Stage(lab, sidecars, upstream);
    } catch (error) {
      await lab.dispose();
      throw error;
    }
  }

  enrolment(index: number): PodEnrolment {
    const { cgroup, addresses } = this.lab.pod(index).enrolment;
    return { cgroup, addresses: [...addresses, toIpAddress(`fd00:77::${11 + index}`)] };
  }

  async turnOn({ accelerator, programIds }: Observed, overrides: ProfileOverrides = {}): Promise<void> {
    const info = await accelerator.turnAccelerationOn({ profile: 'istio', overrides, pods: [this.enrolment(0), this.enrolment(1)] }, CONTEXT);
    programIds.push(...info.programIds);
  }

  async client(steps: readonly DatagramStep[], identity?: ProgramIdentity, pod = 0): Promise<DatagramResult[]> {
    return (await startDatagramClient(this.lab.pod(pod), steps, identity)).results;
  }
}

/** Leaves out ports that the kernel chose. */
function withoutPorts(results: readonly DatagramResult[]): readonly DatagramResult[] {
  const hide = (end: DatagramEnd): DatagramEnd => (end.port >= FIRST_EPHEMERAL_PORT ? { ...end, port: 0 } : end);
  return results.map((result) => ({
    ...result,
    ...(result.from === undefined ? {} : { from: hide(result.from) }),
    ...(result.local === undefined ? {} : { local: hide(result.local) }),
    ...(result.peer === undefined || typeof result.peer === 'string' ? {} : { peer: hide(result.peer) }),
  }));
}

async function countReasons({ accelerator }: Observed): Promise<Record<DecisionReason, number>> {
  const counters = await accelerator.countDecisions({ profile: 'istio' }, CONTEXT);
  return Object.fromEntries(Object.entries(counters).map(([reason, value]) => [reason, Number(value)])) as Record<DecisionReason, number>;
}

const ask = (name: string, address: string, question: string): DatagramStep => ({ do: 'send', name, text: question, to: at53(address) });
const receive = (name: string): DatagramStep => ({ do: 'receive', name });
const open = (name: string, family: 4 | 6 = 4): DatagramStep => ({ do: 'socket', name, family });
const connect = (name: string, address: string): DatagramStep => ({ do: 'connect', name, to: at53(address) });
const names = (name: string): DatagramStep => ({ do: 'names', name });

/** Ways to ask over UDP, each of which has to look the same to who asks. */
const CONVERSATIONS: Readonly<Record<string, readonly DatagramStep[]>> = {
  'sendto and recvfrom': [open('a'), ask('a', FIRST, 'q1'), receive('a'), ask('a', FIRST, 'q2'), receive('a'), names('a')],
  'a connected socket': [open('a'), connect('a', FIRST), names('a'), { do: 'send', name: 'a', text: 'q' }, receive('a'), { do: 'send', name: 'a', text: 'r' }, { do: 'receive', name: 'a', named: false }],
  'a socket that is bound to any address, then connected': [
    open('a'),
    { do: 'bind', name: 'a', to: { address: '0.0.0.0', port: 0 } },
    connect('a', FIRST),
    names('a'),
    { do: 'send', name: 'a', text: 'q' },
    receive('a'),
  ],
  'several resolvers at once from one socket': [
    open('a'),
    ...RESOLVERS.flatMap((resolver, index) => [ask('a', resolver, `q${index}`)]),
    ...RESOLVERS.map(() => receive('a')),
    ask('a', THIRD, 'again'),
    receive('a'),
    ask('a', SECOND, 'again'),
    receive('a'),
    ask('a', FIRST, 'again'),
    receive('a'),
  ],
  'many with one call': [open('a'), { do: 'send', name: 'a', text: 'q', to: at53(FIRST), times: 3 }, receive('a'), { do: 'receive', name: 'a', peek: true }, receive('a'), receive('a')],
  'a socket that is disconnected and asks on': [
    open('a'),
    connect('a', FIRST),
    { do: 'send', name: 'a', text: 'q' },
    receive('a'),
    { do: 'disconnect', name: 'a' },
    names('a'),
    ask('a', FIRST, 'r'),
    receive('a'),
    connect('a', FIRST),
    names('a'),
    { do: 'send', name: 'a', text: 's' },
    receive('a'),
  ],
  'a connected socket that sends to its peer by address': [open('a'), connect('a', FIRST), ask('a', FIRST, 'q'), receive('a'), names('a')],
  'a resolver on loopback': [open('a'), ask('a', '127.0.0.53', 'q'), receive('a'), connect('a', '127.0.0.53'), names('a'), { do: 'send', name: 'a', text: 'r' }, receive('a')],
  'the own address': [open('a'), connect('a', '10.77.0.11'), names('a'), { do: 'send', name: 'a', text: 'r' }, receive('a')],
  'the sidecar itself beside a resolver': [
    open('a'),
    ask('a', FIRST, 'q'),
    receive('a'),
    { do: 'send', name: 'a', text: 'direct', to: { address: '127.0.0.1', port: 15_053 } },
    receive('a'),
    open('b'),
    { do: 'send', name: 'b', text: 'direct', to: { address: '127.0.0.1', port: 15_053 } },
    receive('b'),
  ],
  'IPv6': [open('a', 6), ask('a', FIRST_6, 'q'), receive('a'), open('b', 6), connect('b', SECOND_6), names('b'), { do: 'send', name: 'b', text: 'q' }, receive('b')],
  'IPv4-mapped addresses of an IPv6 socket': [
    open('a', 6),
    ask('a', `::ffff:${FIRST}`, 'q1'),
    receive('a'),
    ask('a', `::ffff:${SECOND}`, 'q2'),
    receive('a'),
    ask('a', FIRST_6, 'q3'),
    receive('a'),
    open('b', 6),
    connect('b', `::ffff:${FIRST}`),
    names('b'),
    { do: 'send', name: 'b', text: 'q4' },
    receive('b'),
    { do: 'send', name: 'b', text: 'q5' },
    receive('b'),
  ],
  'IPv4 addresses of an IPv6 socket': [open('a', 6), ask('a', FIRST, 'q'), receive('a'), open('b', 6), connect('b', FIRST), names('b'), { do: 'send', name: 'b', text: 'q' }, receive('b')],
  'other ports': [open('a'), { do: 'connect', name: 'a', to: { address: FIRST, port: 5_353 } }, names('a'), { do: 'send', name: 'a', text: 'q' }, { do: 'receive', name: 'a' }],
};

const ALL_DNS = generateIstioSidecarRules({ ...ISTIO_INJECTED, capturedDns: 'all', ipv6: true });

suite('DNS over UDP', { skip: missingForKernel() }, () => {
  for (const hasRules of [true, false]) {
    test(`who asks sees what it sees under iptables${hasRules ? '' : ', without the rules of the mesh too'}`, async () => {
      const observed = observe();
      const stage = await Stage.start(ALL_DNS);
      const { lab } = stage;
      try {
        // One process asks it all, one conversation after the other.
        const talk = async (): Promise<ReadonlyMap<string, readonly DatagramResult[]>> => {
          const results = withoutPorts(await stage.client(Object.values(CONVERSATIONS).flat()));
          let at = 0;
          return new Map(Object.entries(CONVERSATIONS).map(([title, steps]) => [title, results.slice(at, (at += steps.length))]));
        };
        const underRules = await talk();
        if (!hasRules) {
          for (const tables of ['iptables', 'ip6tables']) {
            await lab.pod(0).run(tables, ['-t', 'nat', '-F', 'OUTPUT']);
            await lab.pod(0).run(tables, ['-t', 'raw', '-F', 'OUTPUT']);
            await lab.pod(0).run(tables, ['-t', 'raw', '-F', 'PREROUTING']);
          }
        }
        await stage.turnOn(observed);
        for (const [title, seen] of await talk()) {
          assert.deepEqual(seen, underRules.get(title), title);
        }
        const counters = await countReasons(observed);
        for (const reason of ['redirected_to_resolver', 'answered_resolver', 'answered_peer_name', 'answered_own_name'] as const) {
          assert.notEqual(counters[reason], 0, reason);
        }
        for (const reason of ['question_passed_ambiguous', 'question_passed_older_socket', 'question_passed_no_resolver', 'question_passed_full', 'passed_bind_failed', 'failed_storage'] as const) {
          assert.equal(counters[reason], 0, reason);
        }
        assert.deepEqual(stage.upstream.questions, []);
      } finally {
        await observed.accelerator.dispose();
        await lab.dispose();
      }
      await waitForNothingLeft({ labId: lab.id, programIds: observed.programIds });
    });
  }
});
