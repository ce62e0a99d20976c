import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import { createKernelObjectReader } from '../../agent/kernel/kernelObjectReader.ts';
import type { Lab } from '../../agent/lab/lab.ts';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import { APPLICATION_IDENTITY, SIDECAR_IDENTITY } from '../../agent/lab/pod.ts';
import type { ProgramIdentity } from '../../agent/lab/programs/reports.ts';
import type { AccelerationInfo, DecisionReason, PodEnrolment, ProfileOverrides } from '../../agent/protocol/acceleration.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpPrefix, PortNumber } from '../../agent/protocol/scalars.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../../simulator/mesh/istioSidecar.ts';
import { generateKumaRules, KUMA_DEFAULTS } from '../../simulator/mesh/kuma.ts';
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

  /** With these rules in the two pods, and the sidecars running as this user. */
  static async start(rules: { readonly ipv4: string; readonly ipv6: string } | null, sidecar: ProgramIdentity = SIDECAR_IDENTITY): Promise<Stage> {
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
            identity: sidecar,
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

  async turnOn({ accelerator, programIds }: Observed, overrides: ProfileOverrides = {}, profile = 'istio'): Promise<AccelerationInfo> {
    const info = await accelerator.turnAccelerationOn({ profile, overrides, pods: [this.enrolment(0), this.enrolment(1)] }, CONTEXT);
    programIds.push(...info.programIds);
    return info;
  }

  /** Runs a program of the application in the first pod and gives what it prints. `resolvConf` is what it sees as /etc/resolv.conf. */
  async runProgram(command: readonly string[], resolvConf: string): Promise<string> {
    const become = ['setpriv', `--reuid=${APPLICATION_IDENTITY.uid}`, `--regid=${APPLICATION_IDENTITY.gid}`, '--clear-groups'];
    const script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"';
    const child = await this.lab.pod(0).start(['unshare', '--mount', '/bin/sh', '-c', script, 'sh', resolvConf, ...become, ...command], { identity: ROOT_IDENTITY });
    const [output, complaint] = await Promise.all([text(child.stdout), text(child.stderr)]);
    assert.equal(complaint, '');
    return output;
  }

  async client(steps: readonly DatagramStep[], identity?: ProgramIdentity, pod = 0, endsAtError = false): Promise<DatagramResult[]> {
    return (await startDatagramClient(this.lab.pod(pod), steps, identity, endsAtError)).results;
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

async function countReasons({ accelerator }: Observed, profile = 'istio'): Promise<Record<DecisionReason, number>> {
  const counters = await accelerator.countDecisions({ profile }, CONTEXT);
  return Object.fromEntries(Object.entries(counters).map(([reason, value]) => [reason, Number(value)])) as Record<DecisionReason, number>;
}

/** Gives the number of entries of the map of questions that wait. */
async function countQuestions(info: AccelerationInfo): Promise<number> {
  const reader = createKernelObjectReader(openLibbpf(), findCgroup2Mount);
  const map = (await reader.listMaps(CONTEXT.signal)).find(({ id, name }) => name === 'questions' && info.mapIds.includes(id));
  assert.ok(map !== undefined);
  return (await reader.readMap({ mapId: map.id, cursor: null, limit: 1_000 }, CONTEXT.signal)).entries.length;
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

/** Makes a temporary folder that the programs of applications see too. */
function makeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'meshpath-test-'));
  chmodSync(folder, 0o755);
  return folder;
}

const FLUSH_OUTPUT = ['nat', 'raw'] as const;

/** Calls `use` with a stage and an accelerator, and holds that nothing of them is left. */
async function onStage(start: () => Promise<Stage>, use: (stage: Stage, observed: Observed) => Promise<void>): Promise<void> {
  const observed = observe();
  const stage = await start();
  try {
    await use(stage, observed);
  } finally {
    await observed.accelerator.dispose();
    await stage.lab.dispose();
  }
  await waitForNothingLeft({ labId: stage.lab.id, programIds: observed.programIds });
}

/** Asks once for each text and gives what comes back. */
async function answersOf(stage: Stage, questions: readonly (readonly [resolver: string, text: string])[], identity?: ProgramIdentity): Promise<readonly (string | undefined)[]> {
  const steps = questions.flatMap(([resolver, question]) => [open('a', resolver.includes(':') ? 6 : 4), ask('a', resolver, question), receive('a')]);
  return (await stage.client(steps, identity)).flatMap((result, index) => (index % 3 === 2 ? [result.text ?? result.error] : []));
}

suite('DNS over UDP', { skip: missingForKernel() }, () => {
  for (const hasRules of [true, false]) {
    test(`who asks sees what it sees under iptables${hasRules ? '' : ', without the rules of the mesh too'}`, async () => {
      await onStage(
        () => Stage.start(ALL_DNS),
        async (stage, observed) => {
          // One process asks it all, one conversation after the other.
          const talk = async (): Promise<ReadonlyMap<string, readonly DatagramResult[]>> => {
            const results = withoutPorts(await stage.client(Object.values(CONVERSATIONS).flat()));
            let at = 0;
            return new Map(Object.entries(CONVERSATIONS).map(([title, steps]) => [title, results.slice(at, (at += steps.length))]));
          };
          const underRules = await talk();
          if (!hasRules) {
            for (const tables of ['iptables', 'ip6tables']) {
              for (const table of FLUSH_OUTPUT) {
                await stage.lab.pod(0).run(tables, ['-t', table, '-F', 'OUTPUT']);
              }
            }
          }
          const info = await stage.turnOn(observed);
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
          assert.equal(await countQuestions(info), 0);
        },
      );
    });
  }

  test('what is not certain is left to the rules, and counted with its reason', async () => {
    const folder = makeFolder();
    await onStage(
      () => Stage.start(ALL_DNS),
      async (stage, observed) => {
        const gate = join(folder, 'gate');
        const older = await startDatagramClient(stage.lab.pod(0), [open('a'), { do: 'gate', file: gate }, ask('a', FIRST, 'older'), receive('a'), connect('a', SECOND), { do: 'send', name: 'a', text: 'older' }, receive('a')]);
        await older.waiting;
        const many = Array.from({ length: 9 }, (_, index) => `10.77.0.${60 + index}`);
        const steps: readonly DatagramStep[] = [
          // The address of the pod of its own, which conntrack knows.
          open('a'), { do: 'bind', name: 'a', to: { address: '10.77.0.11', port: 0 } }, ask('a', FIRST, 'bound'), receive('a'),
          // More resolvers than there are addresses for.
          open('b'), ...many.flatMap((resolver) => [ask('b', resolver, 'many'), receive('b')]),
          open('c', 6), ask('c', FIRST_6, 'one'), receive('c'), ask('c', SECOND_6, 'two'), receive('c'),
          // A socket that connects again.
          open('d'), connect('d', FIRST), { do: 'send', name: 'd', text: 'first' }, receive('d'),
        ];
        const underRules = withoutPorts(await stage.client(steps));
        const sidecarSteps = [{ do: 'socket', name: 'a', family: 4, creator: SIDECAR_IDENTITY.uid }, ask('a', FIRST, 'as the sidecar'), receive('a')] as const;
        await stage.turnOn(observed);
        assert.deepEqual(withoutPorts(await stage.client(steps)), underRules);
        writeFileSync(gate, '');
        const sidecar0 = (question: string, address: string): DatagramResult => ({ text: `sidecar 0:${question}`, from: at53(address) });
        assert.deepEqual((await older.results).filter((result) => result.text !== undefined), [sidecar0('older', FIRST), sidecar0('older', SECOND)]);
        assert.deepEqual(await answersOf(stage, [[FIRST, 'own']], SIDECAR_IDENTITY), ['upstream:own']);
        // It is who made the socket that counts, and not who sends.
        assert.equal((await stage.client(sidecarSteps, ROOT_IDENTITY))[2]?.text, 'upstream:as the sidecar');
        const counters = await countReasons(observed);
        assert.deepEqual(
          [counters.passed_bind_failed, counters.question_passed_ambiguous, counters.question_passed_older_socket, counters.question_passed_sidecar, counters.question_passed_no_resolver],
          [1, 3, 2, 2, 0],
          JSON.stringify(counters),
        );
      },
    );
    rmSync(folder, { recursive: true });
  });

  test('resolvers, ports, ranges and owners as the profile has them', async () => {
    await onStage(
      () => Stage.start(null),
      async (stage, observed) => {
        const questions = [[FIRST, 'a'], [SECOND, 'b'], [FIRST_6, 'c'], [SECOND_6, 'd']] as const;
        const answeredBySidecar = async (profile: string, overrides: ProfileOverrides, identity?: ProgramIdentity): Promise<readonly boolean[]> => {
          await stage.turnOn(observed, overrides, profile);
          const answers = await answersOf(stage, questions, identity);
          await observed.accelerator.turnAccelerationOff({ cgroups: null }, CONTEXT);
          return answers.map((answer, index) => {
            assert.ok(answer === `sidecar 0:${questions[index]?.[1] ?? ''}` || answer === `upstream:${questions[index]?.[1] ?? ''}`, answer);
            return answer.startsWith('sidecar');
          });
        };
        const all = [true, true, true, true];
        const none = [false, false, false, false];
        const excluded = { excludedOutboundPorts: [53] as PortNumber[] };
        const ranges = { excludedOutboundRanges: [`${FIRST}/32`, 'fd00:77::/64'] as IpPrefix[] };
        assert.deepEqual(await answeredBySidecar('istio', {}), all);
        assert.deepEqual(await answeredBySidecar('istio', { dnsResolvers: [`${SECOND}/32`, `${FIRST_6}/128`] as IpPrefix[] }), [false, true, true, false]);
        assert.deepEqual(await answeredBySidecar('istio', excluded), none);
        assert.deepEqual(await answeredBySidecar('istio', ranges), all);
        assert.deepEqual(await answeredBySidecar('istio', { dnsPort: null }), none);
        assert.deepEqual(await answeredBySidecar('istio', { dnsPort: 15_054 as PortNumber }), none);
        assert.deepEqual(await answeredBySidecar('istio', {}, { uid: 1_000, gid: SIDECAR_IDENTITY.gid }), none);
        assert.deepEqual(await answeredBySidecar('kuma', excluded), all);
        assert.deepEqual(await answeredBySidecar('kuma', ranges), [false, true, false, false]);
        assert.deepEqual(await answeredBySidecar('kuma', {}, { uid: 1_000, gid: 5_678 }), all);
        assert.deepEqual(await answeredBySidecar('linkerd', {}), none);
      },
    );
  });

  test('under the rules of Kuma who asks sees the same', async () => {
    const sidecar = { uid: 5_678, gid: 5_678 };
    await onStage(
      () => Stage.start(generateKumaRules({ ...KUMA_DEFAULTS, capturedDns: 'all', proxyUid: sidecar.uid }), sidecar),
      async (stage, observed) => {
        const steps = [...(CONVERSATIONS['several resolvers at once from one socket'] ?? []), ...(CONVERSATIONS['a connected socket'] ?? [])];
        const underRules = withoutPorts(await stage.client(steps));
        await stage.turnOn(observed, {}, 'kuma');
        assert.deepEqual(withoutPorts(await stage.client(steps)), underRules);
        assert.notEqual((await countReasons(observed, 'kuma')).redirected_to_resolver, 0);
      },
    );
  });

  test('resolvers of the C library and of Node.js, short answers, large ones and those that need TCP', async () => {
    const folder = makeFolder();
    const resolvConf = join(folder, 'resolv.conf');
    writeFileSync(resolvConf, `nameserver ${FIRST}\nnameserver ${SECOND}\n`);
    await onStage(
      () => Stage.start(ALL_DNS),
      async (stage, observed) => {
        const script = `
          const { Resolver } = require('node:dns').promises;
          const resolver = new Resolver();
          resolver.setServers(['${SECOND}', '${FIRST}']);
          Promise.all(['small.example', 'large.example'].map((name) => resolver.resolve4(name))).then((all) => console.log(JSON.stringify(all.map((list) => list.sort()))));
        `;
        const look = async (): Promise<readonly string[]> => [
          await stage.runProgram(['getent', 'ahostsv4', 'small.example'], resolvConf),
          (await stage.runProgram(['getent', 'ahostsv4', 'large.example'], resolvConf)).split('\n').sort().join('\n'),
          await stage.runProgram(['node', '-e', script], resolvConf),
        ];
        const underRules = await look();
        assert.match(underRules[0] ?? '', /192\.0\.2\.1 /);
        await stage.turnOn(observed);
        const before = stage.sidecars[0]?.questions.length ?? 0;
        assert.deepEqual(await look(), underRules);
        const asked = stage.sidecars[0]?.questions.slice(before) ?? [];
        assert.ok(asked.some(({ over, text: name }) => over === 'tcp' && name === 'large.example'), JSON.stringify(asked));
        assert.deepEqual(stage.upstream.questions, []);
        const events = observed.events.filter(({ reason }) => reason === 'redirected_to_resolver');
        assert.ok(events.some(({ original }) => original?.address === FIRST && original.port === 53));
      },
    );
    rmSync(folder, { recursive: true });
  });

  test('two pods that ask the same resolvers from the same port get their own answers', async () => {
    await onStage(
      () => Stage.start(null),
      async (stage, observed) => {
        await stage.turnOn(observed);
        const rounds = Array.from({ length: 100 }, (_, index) => RESOLVERS.flatMap((resolver) => [ask('a', resolver, `${index} ${resolver}`), receive('a')])).flat();
        const steps: readonly DatagramStep[] = [open('a'), { do: 'bind', name: 'a', to: { address: '0.0.0.0', port: 40_053 } }, ...rounds];
        const results = await Promise.all([0, 1].map((pod) => stage.client(steps, APPLICATION_IDENTITY, pod)));
        results.forEach((answers, pod) => {
          const expected = Array.from({ length: 100 }, (_, index) => RESOLVERS.map((resolver) => ({ text: `sidecar ${pod}:${index} ${resolver}`, from: at53(resolver) }))).flat();
          assert.deepEqual(answers.filter((result) => result.text !== undefined || result.error !== undefined), expected);
        });
      },
    );
  });

  test('an answer that comes after acceleration was turned off is told to come from whom was asked', async () => {
    await onStage(
      () => Stage.start(ALL_DNS),
      async (stage, observed) => {
        const info = await stage.turnOn(observed);
        const steps: readonly DatagramStep[] = [
          open('a'), ask('a', FIRST, 'slow 1'), ask('a', SECOND, 'slow 2'),
          open('b'), connect('b', THIRD), { do: 'send', name: 'b', text: 'slow 3' },
          receive('a'), receive('a'), receive('b'),
        ];
        const client = await startDatagramClient(stage.lab.pod(0), steps);
        while ((stage.sidecars[0]?.questions.length ?? 0) < 3) {
          await delay(10);
        }
        assert.equal(await countQuestions(info), 2);
        await observed.accelerator.turnAccelerationOff({ cgroups: null }, CONTEXT);
        const answers = (await client.results).filter((result) => result.text !== undefined || result.error !== undefined);
        assert.deepEqual(answers.map(({ text: answer, from }) => [answer, from?.address]).sort(), [
          ['sidecar 0:slow 1', FIRST],
          ['sidecar 0:slow 2', SECOND],
          ['sidecar 0:slow 3', THIRD],
        ]);
      },
    );
  });

  test('no answer is lost while acceleration is turned on and off, with the rules in place', async () => {
    await onStage(
      () => Stage.start(ALL_DNS),
      async (stage, observed) => {
        const resolvers = [...RESOLVERS, FIRST_6];
        const one = (index: number): DatagramStep[] => {
          const resolver = resolvers[index % resolvers.length] ?? FIRST;
          const socket = open('a', resolver.includes(':') ? 6 : 4);
          const question = `question ${index}`;
          return index % 3 === 0
            ? [socket, connect('a', resolver), { do: 'send', name: 'a', text: question }, receive('a'), { do: 'close', name: 'a' }]
            : [socket, ask('a', resolver, question), receive('a'), { do: 'close', name: 'a' }];
        };
        const count = 1_500;
        const clients = Promise.all([0, 1].map((pod) => stage.client(Array.from({ length: count }, (_, index) => one(index)).flat(), APPLICATION_IDENTITY, pod, true)));
        const done = clients.then(() => true);
        let switches = 0;
        while (!(await Promise.race([done, delay(200, false)]))) {
          if (switches % 2 === 0) {
            await stage.turnOn(observed);
          } else {
            await observed.accelerator.turnAccelerationOff({ cgroups: null }, CONTEXT);
          }
          switches += 1;
        }
        assert.ok(switches >= 2, `turned on and off ${switches} times`);
        for (const [pod, results] of (await clients).entries()) {
          const answers = results.filter((result) => result.text !== undefined || result.error !== undefined);
          answers.forEach((answer, index) => {
            assert.deepEqual(answer, { text: `sidecar ${pod}:question ${index}`, from: at53(resolvers[index % resolvers.length] ?? '') });
          });
          assert.equal(answers.length, count);
        }
      },
    );
  });
});
