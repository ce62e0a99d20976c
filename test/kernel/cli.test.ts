import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { chmod, cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { AccelerationInfo, DecisionCounters, DecisionEvent, TurnOffReport } from '../../agent/protocol/acceleration.ts';
import type { DoctorReport } from '../../agent/protocol/doctor.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import type { LinkInfo, ProgramInfo } from '../../agent/protocol/kernelObjects.ts';
import type { Explanation } from '../../agent/protocol/trace.ts';
import type { MapListing } from '../../cli/mapTable.ts';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { ReportLog } from '../../agent/lab/reportLog.ts';
import { missingForKernel } from '../requirements.ts';

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url));
const skip = missingForKernel();
/** Longer than anything here takes on a busy machine. */
const PATIENCE_MILLISECONDS = 60_000;

/** The built command line as a child process. */
class CliProcess {
  readonly lines = new ReportLog<string>();
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  readonly #closed: Promise<unknown>;
  #output = '';
  #notes = '';

  constructor(args: readonly string[], options: { readonly before?: readonly string[]; readonly program?: string } = {}) {
    const [file = process.execPath, ...rest] = [...(options.before ?? []), process.execPath, options.program ?? CLI, ...args];
    this.child = spawn(file, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#closed = once(this.child, 'close');
    let partial = '';
    this.child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.#output += text;
      const lines = (partial + text).split('\n');
      partial = lines.pop() ?? '';
      lines.forEach((line) => {
        this.lines.add(line);
      });
    });
    this.child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#notes += text));
  }

  /** Of the programs that it loaded, as far as it said so. */
  get programIds(): readonly number[] {
    return this.lines.all.filter((line) => line.startsWith('{"on"')).flatMap((line) => (JSON.parse(line) as { readonly on: AccelerationInfo }).on.programIds);
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** Waits for the end and gives all that it printed. */
  async end(): Promise<{ code: number | null; signal: NodeJS.Signals | null; output: string; notes: string }> {
    await this.#closed;
    return { code: this.child.exitCode, signal: this.child.signalCode, output: this.#output, notes: this.#notes };
  }
}

type AccelerateLine =
  | { readonly on: AccelerationInfo }
  | { readonly event: DecisionEvent }
  | { readonly lost: number }
  | { readonly off: TurnOffReport; readonly counters: DecisionCounters };

function run(...args: readonly string[]): ReturnType<CliProcess['end']> {
  return new CliProcess(args).end();
}

function accelerate(lab: Lab): CliProcess {
  const pods = lab.pods.flatMap((pod) => ['--pod', `${pod.cgroup}=${pod.addresses.join(',')}`]);
  return new CliProcess(['accelerate', '--profile', 'istio', '--json', ...pods]);
}

function eventsOf(lines: readonly string[]): DecisionEvent[] {
  return lines.map((line) => JSON.parse(line) as AccelerateLine).flatMap((line) => ('event' in line ? [line.event] : []));
}

/** Runs `use` in a lab, removes the lab, and holds the machine to having nothing left of it and of these processes. */
async function withLab(use: (lab: Lab, watch: (process: CliProcess) => CliProcess) => Promise<void>): Promise<void> {
  const lab = await createLab();
  const processes: CliProcess[] = [];
  try {
    await use(lab, (started) => {
      processes.push(started);
      return started;
    });
  } finally {
    processes.forEach(({ child }) => child.kill('SIGKILL'));
    await Promise.all(processes.map((started) => started.end()));
    await lab.dispose();
  }
  await waitForNothingLeft({ labId: lab.id, programIds: processes.flatMap(({ programIds }) => programIds) });
}

test('the built command line says its version, and ends with 2 on wrong usage', async () => {
  const manifest = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
  assert.deepEqual(await run('--version'), { code: 0, signal: null, output: `${manifest.version}\n`, notes: '' });
  const wrong = await run('nonsense', '--json');
  assert.equal(wrong.code, 2);
  assert.equal((JSON.parse(wrong.notes) as { error: WireError }).error.code, 'INPUT_INVALID');
});

test('a reader that goes early is no failure', async () => {
  const help = new CliProcess(['--help']);
  help.child.stdout.destroy();
  assert.equal((await help.end()).code, 0);
});

test('explain answers on the simulated node without any privilege', async () => {
  const text = await run('explain', '--simulated', 'pod-a', 'pod-b:8080');
  assert.equal(text.notes, '');
  assert.equal(text.code, 0);
  for (const line of [/^The iptables path \(predicted\): delivered\./m, /^The sockops path \(predicted\): delivered\./m, /^Cost +iptables +sockops$/m]) {
    assert.match(text.output, line);
  }
  const { output } = await run('explain', '--simulated', 'pod-a', 'pod-b:8080', '--json');
  const { iptables, sockops } = JSON.parse(output) as Explanation;
  const destination = { address: '10.244.1.3', port: 8080 };
  for (const trace of [iptables, sockops]) {
    assert.deepEqual(trace.legs.map(({ server }) => server?.address.port), [15_001, 15_006, 8080]);
    assert.deepEqual(trace.legs.slice(0, 2).map(({ originalDestination }) => originalDestination), [destination, destination]);
  }
  assert.deepEqual(iptables.legs.map(({ data }) => data), ['tcp', 'tcp', 'tcp']);
  assert.deepEqual(sockops.legs.map(({ data }) => data), ['socket-to-socket', 'socket-to-socket', 'socket-to-socket']);
});

test('a snapshot of the simulated node explains offline as the node itself', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'meshpath-cli-test-'));
  try {
    const file = join(folder, 'node.json');
    assert.equal((await run('snapshot', '--simulated', '--output', file)).code, 0);
    const offline = await run('explain', '--snapshot', file, 'pod-a', 'pod-b:8080', '--json');
    const online = await run('explain', '--simulated', 'pod-a', 'pod-b:8080', '--json');
    assert.deepEqual(JSON.parse(offline.output), JSON.parse(online.output));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('the doctor looks at the real kernel, and its exit code says the verdict', { skip }, async () => {
  const { code, output } = await run('doctor', '--json');
  const report = JSON.parse(output) as DoctorReport;
  assert.equal(code, report.verdict === 'safe' ? 0 : 1);
  assert.ok(report.checks.some(({ id, result }) => id === 'btf' && result === 'ok'), output);
  const text = await run('doctor');
  assert.match(text.output, /^Acceleration: /);
});

test('limits that some applications would notice end the command where that is asked for', { skip }, async () => {
  await withLab(async (lab) => {
    const pods = lab.pods.flatMap((pod) => ['--pod', `${pod.cgroup}=${pod.addresses.join(',')}`]);
    const { code, notes } = await run('accelerate', '--refuse-limits', '--json', ...pods);
    assert.equal(code, 1);
    const { error } = JSON.parse(notes) as { error: WireError };
    assert.equal(error.code, 'LIMITS_NOT_ACCEPTED');
    assert.match(error.remedy, /--refuse-limits.*splice/);
  });
});

test('acceleration is on until SIGTERM: connections are accelerated, maps and programs show it, and nothing is left', { skip }, async () => {
  await withLab(async (lab, watch) => {
    const [podA, podB] = [lab.pod(0), lab.pod(1)];
    const [server, proxyA, , client] = await Promise.all([podB.startServer({ port: 8080 }), podA.startProxy(), podB.startProxy(), podA.startClient()]);
    const cli = watch(accelerate(lab));
    const on = JSON.parse(await cli.lines.waitFor((line) => line.startsWith('{"on"'), PATIENCE_MILLISECONDS)) as { on: AccelerationInfo };
    assert.deepEqual(on.on.pods, lab.pods.map(({ enrolment }) => enrolment));

    const destination = { address: podB.address, port: 8080 };
    const connection = await client.connect(destination);
    assert.equal((await connection.exchange(100_000)).exact, true);
    assert.deepEqual((await connection.describe()).peer, destination);
    assert.deepEqual((await proxyA.accepted.waitFor()).originalDestination, destination);
    assert.equal((await server.accepted.waitFor()).peer.address, '127.0.0.6');
    await cli.lines.waitFor((line) => line.includes('"message_redirected"'), PATIENCE_MILLISECONDS);
    const events = eventsOf(cli.lines.all);
    const redirected = events.find(({ reason }) => reason === 'redirected_to_outbound');
    assert.deepEqual(redirected?.original, destination);
    assert.equal(redirected.uid, 1000);

    const programs = JSON.parse((await run('programs', '--json')).output) as readonly ProgramInfo[];
    const ours = programs.filter(({ id }) => on.on.programIds.includes(id)).map(({ name }) => name);
    assert.ok(ours.includes('meshpath_connect4') && ours.includes('meshpath_sk_msg'), ours.join());
    const links = JSON.parse((await run('links', '--json')).output) as readonly LinkInfo[];
    assert.equal(links.filter(({ id }) => on.on.linkIds.includes(id)).length, on.on.linkIds.length);

    const listings = JSON.parse((await run('maps', 'connections', '--json')).output) as readonly MapListing[];
    const listing = listings.find(({ map }) => on.on.mapIds.includes(map.id));
    assert.ok(listing !== undefined);
    assert.ok(JSON.stringify(listing.entries).includes(`{"kind":"address","value":"${podB.address}"}`), JSON.stringify(listing.entries));
    const table = await run('maps', String(listing.map.id));
    assert.ok(table.output.includes(podB.address), table.output);

    cli.child.kill('SIGTERM');
    const ended = await cli.end();
    assert.equal(ended.notes, '');
    assert.deepEqual({ code: ended.code, signal: ended.signal }, { code: 0, signal: null });
    const last = JSON.parse(ended.output.trimEnd().split('\n').at(-1) ?? '') as Extract<AccelerateLine, { off: unknown }>;
    // What rewrites is detached at once; what answers about the open connection goes with the agent.
    assert.ok(last.off.detachedLinks > 0 && last.off.detachedLinks < on.on.linkIds.length, String(last.off.detachedLinks));
    assert.deepEqual(last.off.leaving?.map(({ cgroup }) => cgroup).sort(), lab.pods.map(({ cgroup }) => cgroup).sort());
    assert.notEqual(last.counters.message_redirected, '0');
    // The open connection goes on.
    assert.equal((await connection.exchange(10_000)).exact, true);
    await connection.close();
  });
});

test('after SIGKILL the kernel frees everything, and the open connection goes on', { skip }, async () => {
  await withLab(async (lab, watch) => {
    const [, , , client] = await Promise.all([
      lab.pod(1).startServer({ port: 8080 }),
      lab.pod(0).startProxy(),
      lab.pod(1).startProxy(),
      lab.pod(0).startClient(),
    ]);
    const cli = watch(accelerate(lab));
    await cli.lines.waitFor((line) => line.startsWith('{"on"'), PATIENCE_MILLISECONDS);
    const connection = await client.connect({ address: lab.pod(1).address, port: 8080 });
    assert.equal((await connection.exchange(10_000)).exact, true);
    cli.child.kill('SIGKILL');
    assert.equal((await cli.end()).signal, 'SIGKILL');
    assert.equal((await connection.exchange(50_000)).exact, true);
    const again = await client.connect({ address: lab.pod(1).address, port: 8080 });
    assert.equal((await again.exchange(50_000)).exact, true);
  });
});

for (const signal of ['SIGINT', 'SIGHUP'] as const) {
  test(`${signal} turns acceleration off in good order`, { skip }, async () => {
    await withLab(async (lab, watch) => {
      const cli = watch(accelerate(lab));
      await cli.lines.waitFor((line) => line.startsWith('{"on"'), PATIENCE_MILLISECONDS);
      cli.child.kill(signal);
      const { code, output } = await cli.end();
      assert.equal(code, 0);
      assert.match(output, /\{"off"/);
    });
  });
}

test('acceleration ends with its reader', { skip }, async () => {
  await withLab(async (lab, watch) => {
    const client = await lab.pod(0).startClient();
    const cli = watch(accelerate(lab));
    await cli.lines.waitFor((line) => line.startsWith('{"on"'), PATIENCE_MILLISECONDS);
    cli.child.stdout.destroy();
    // Any decision is a line that nobody takes.
    const attempt = client.connect({ address: lab.pod(1).address, port: 9 }).catch(() => undefined);
    assert.equal((await cli.end()).code, 0);
    await attempt;
  });
});

test('a cgroup that is not there is told, and nothing is turned on', { skip }, async () => {
  const cli = new CliProcess(['accelerate', '--pod', '/meshpath-no-such-cgroup=10.77.0.11', '--json']);
  const { code, output, notes } = await cli.end();
  assert.equal(code, 1);
  assert.equal(output, '');
  const { error } = JSON.parse(notes) as { error: WireError };
  assert.equal(error.code, 'CGROUP_NOT_FOUND');
  await waitForNothingLeft({ holders: [cli.pid], programIds: [] });
});

test('without privilege the missing capability and its remedy are told', { skip }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'meshpath-cli-test-'));
  t.after(async () => rm(folder, { recursive: true }));
  // The project's own folder may be one that only root can read.
  await chmod(folder, 0o755);
  for (const name of ['cli.cjs', 'agent']) {
    await cp(join(dirname(CLI), name), join(folder, name), { recursive: true });
  }
  const before = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all', '--'];
  const { code, output, notes } = await new CliProcess(['programs', '--json'], { before, program: join(folder, 'cli.cjs') }).end();
  assert.equal(output, '');
  assert.equal(code, 1);
  const { error } = JSON.parse(notes) as { error: WireError };
  assert.equal(error.code, 'CAPABILITY_MISSING');
  assert.match(error.remedy, /root|sudo|capabilit/i);
});
