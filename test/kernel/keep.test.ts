import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, statSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createAccelerator } from '../../agent/accelerate/accelerator.ts';
import type { Accelerator } from '../../agent/accelerate/accelerator.ts';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import type { AccelerationInfo, AccelerationRequest, DecisionEvent } from '../../agent/protocol/acceleration.ts';
import type { WireError } from '../../agent/protocol/errors.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { CgroupPath } from '../../agent/protocol/scalars.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import { root } from '../../scripts/paths.mjs';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { missingForKernel } from '../requirements.ts';
import { Conversation } from './datapathConversation.ts';

const CONTEXT = { signal: new AbortController().signal };
const DEADLINE_MILLISECONDS = 10_000;

/** Resolves once `isSo`; rejects after ten seconds. */
async function waitUntil(isSo: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + DEADLINE_MILLISECONDS;
  while (!(await isSo())) {
    assert.ok(Date.now() < deadline, what);
    await delay(20);
  }
}

suite('acceleration that is kept', { skip: missingForKernel() }, () => {
  let lab: Lab;
  let keptFolder: string;
  let agents: Accelerator[];
  let children: ChildProcess[];
  let programIds: number[];
  let events: DecisionEvent[];
  let notices: WireError[];

  beforeEach(async () => {
    lab = await createLab({ rules: 'istio' });
    keptFolder = `/sys/fs/bpf/${lab.id}`;
    [agents, children, programIds, events, notices] = [[], [], [], [], []];
  });
  afterEach(async () => {
    for (const agent of agents) {
      await agent.turnAccelerationOff({ cgroups: null }, CONTEXT).catch(() => undefined);
      await agent.dispose();
    }
    for (const child of children) {
      await kill(child);
    }
    await lab.dispose();
    assert.equal(existsSync(keptFolder), false);
    await waitForNothingLeft({ labId: lab.id, programIds });
  });

  const startAgent = (version = 0, folder = keptFolder): Accelerator => {
    const agent = createAccelerator({
      object: Buffer.concat([readFileSync(prebuiltObject), Buffer.alloc(version)]),
      keptFolder: folder,
      notify: (name, value) => {
        if (name === 'decisions' && 'events' in value) {
          events.push(...value.events);
        } else if (name === 'notice' && 'code' in value) {
          notices.push(value as WireError);
        }
      },
    });
    agents.push(agent);
    return agent;
  };
  const request = (): AccelerationRequest => ({ profile: 'istio', pods: lab.pods.map(({ enrolment }) => enrolment), keep: true });
  const list = async (agent: Accelerator): Promise<readonly AccelerationInfo[]> => {
    const infos = await agent.listAccelerations({}, CONTEXT);
    programIds.push(...infos.flatMap((info) => info.programIds));
    return infos;
  };
  const turnOn = async (agent: Accelerator): Promise<AccelerationInfo> => {
    const info = await agent.turnAccelerationOn(request(), CONTEXT);
    programIds.push(...info.programIds);
    return info;
  };
  const count = async (agent: Accelerator, reason: 'redirected_to_outbound' | 'message_redirected'): Promise<number> =>
    Number((await agent.countDecisions({ profile: 'istio' }, CONTEXT))[reason]);

  /** Another process that turns acceleration on and keeps it. */
  const startChild = async (): Promise<{ readonly child: ChildProcess; readonly info: AccelerationInfo }> => {
    const child = spawn(process.execPath, ['--import', 'tsx', join(root, 'test/kernel/datapathAgent.ts'), JSON.stringify(request()), keptFolder], { stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(child);
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const info = JSON.parse(line.toString()) as AccelerationInfo;
    programIds.push(...info.programIds);
    return { child, info };
  };

  test('goes on when its agent is killed, and the next agent takes it over with its counters and events', async () => {
    const { child, info } = await startChild();
    assert.deepEqual(info.kept, { isOutdated: false, heldBy: null });
    const conversation = await Conversation.start(lab);
    const before = await conversation.connect();
    assert.equal((await before.exchange(10_000)).exact, true);
    await kill(child);
    // Nobody looks after it, and it goes on.
    const alone = await conversation.connect();
    assert.deepEqual([(await before.exchange(10_000)).exact, (await alone.exchange(10_000)).exact], [true, true]);

    const next = startAgent();
    const [adopted, ...others] = await list(next);
    assert.deepEqual(others, []);
    assert.deepEqual(sorted(adopted), sorted(info));
    assert.equal(await count(next, 'redirected_to_outbound'), 2);
    const redirected = await count(next, 'message_redirected');
    assert.equal((await before.exchange(10_000)).exact, true);
    assert.ok((await count(next, 'message_redirected')) > redirected);
    events.length = 0;
    const after = await conversation.connect();
    assert.equal((await after.exchange(10_000)).exact, true);
    await waitUntil(() => events.some(({ reason }) => reason === 'redirected_to_outbound'), 'no event came');

    const report = await next.turnAccelerationOff({ cgroups: null }, CONTEXT);
    assert.equal(report.leaving?.length, 2);
    assert.equal((await before.exchange(10_000)).exact, true);
    await Promise.all([before.close(), alone.close(), after.close()]);
    await waitUntil(async () => (await list(next)).length === 0, 'something is left');
    assert.deepEqual([existsSync(keptFolder), notices], [false, []]);
  });

  test('is one agent\'s at a time: another is told whose it is, and can look', async () => {
    const { child } = await startChild();
    const second = startAgent();
    const [seen] = await list(second);
    assert.deepEqual(seen?.pods, lab.pods.map(({ enrolment }) => enrolment));
    assert.deepEqual(seen.kept, { isOutdated: false, heldBy: child.pid });
    const isHeld = (error: WireError): boolean => error.code === 'ACCELERATION_HELD' && error.reason.includes(String(child.pid)) && error.remedy !== '';
    await assert.rejects(second.turnAccelerationOff({ cgroups: null }, CONTEXT), isHeld);
    await assert.rejects(second.turnAccelerationOn(request(), CONTEXT), isHeld);
    await assert.rejects(second.upgradeAcceleration({ profile: 'istio' }, CONTEXT), isHeld);
    await kill(child);
    assert.deepEqual((await list(second))[0]?.kept, { isOutdated: false, heldBy: null });
  });

  test('an agent that ends in the middle leaves what works: the next one completes or removes it', async () => {
    const first = startAgent();
    const info = await turnOn(first);
    await first.dispose();
    const [name = ''] = readdirSync(keptFolder);
    // A pod that was about to be turned off or on: it is off.
    const [, second] = lab.pods;
    assert.ok(second);
    unlinkSync(join(keptFolder, name, 'pods', String(statSync(join(findCgroup2Mount(), second.cgroup)).ino), 'meshpath_connect4'));
    const next = startAgent();
    await list(next);
    await waitUntil(async () => {
      const [adopted] = await list(next);
      return adopted?.pods.length === 1 && adopted.leaving === undefined && adopted.linkIds.length < info.linkIds.length / 2 + 1;
    }, 'the pod is still there');
    await next.dispose();
    // A set that was not complete yet.
    renameSync(join(keptFolder, name), join(keptFolder, name.replace('set-', 'new-')));
    const last = startAgent();
    assert.deepEqual(await list(last), []);
    assert.equal(existsSync(keptFolder), false);
    assert.deepEqual(notices, []);
  });

  test('an upgrade leaves old connections to the old programs, and none without', async () => {
    const first = startAgent();
    const info = await turnOn(first);
    const conversation = await Conversation.start(lab);
    const before = await conversation.connect();
    assert.equal((await before.exchange(10_000)).exact, true);
    await first.dispose();

    const newer = startAgent(1);
    assert.deepEqual((await list(newer))[0]?.kept, { isOutdated: true, heldBy: null });
    const upgraded = await newer.upgradeAcceleration({ profile: 'istio' }, CONTEXT);
    assert.deepEqual([upgraded.kept?.isOutdated, upgraded.pods], [false, info.pods]);
    const sets = await list(newer);
    assert.deepEqual(sets.map(({ pods, leaving }) => [pods.length, leaving?.map(({ openConnections }) => openConnections) ?? []]), [[0, [2, 2]], [2, []]]);
    const after = await conversation.connect();
    assert.deepEqual([(await before.exchange(10_000)).exact, (await after.exchange(10_000)).exact], [true, true]);
    assert.equal(await count(newer, 'redirected_to_outbound'), 1);
    const redirected = await count(newer, 'message_redirected');
    assert.equal((await before.exchange(10_000)).exact, true);
    // It is the old programs that redirect what the old connection sends.
    assert.equal(await count(newer, 'message_redirected'), redirected);
    await before.close();
    await waitUntil(async () => (await list(newer)).length === 1, 'the old programs are still there');
    assert.equal(readdirSync(keptFolder).length, 1);
    // Nothing to do.
    assert.deepEqual((await newer.upgradeAcceleration({ profile: 'istio' }, CONTEXT)).programIds, upgraded.programIds);
    await after.close();
  });

  test('cannot be kept where no BPF file system is, or only one to read: it is told, and nothing is left', async () => {
    const agent = startAgent(0, join(tmpdir(), lab.id));
    const isMissing = (error: WireError): boolean => error.code === 'BPFFS_MISSING' && error.remedy.includes('mount');
    await assert.rejects(agent.turnAccelerationOn(request(), CONTEXT), isMissing);
    assert.deepEqual(await list(agent), []);
    const info = await agent.turnAccelerationOn({ ...request(), keep: false }, CONTEXT);
    programIds.push(...info.programIds);
    assert.equal(info.kept, undefined);
  });

  test('what cannot be read is told, stays as it is, and does not keep other things from working', async () => {
    const first = startAgent();
    await turnOn(first);
    await first.dispose();
    const [name = ''] = readdirSync(keptFolder);
    unlinkSync(join(keptFolder, name, 'record'));
    const next = startAgent();
    assert.deepEqual(await list(next), []);
    assert.deepEqual(notices.map(({ code }) => code), ['KEPT_UNREADABLE']);
    assert.match(notices[0]?.remedy ?? '', /meshpath clean/);
    await assert.rejects(next.turnAccelerationOn(request(), CONTEXT), { code: 'ACCELERATION_OVERLAPS' });
    await next.dispose();
    const cleaned = await startAgent().clean({ isDryRun: false }, CONTEXT);
    assert.deepEqual(cleaned.items.map(({ kind, isRemoved }) => [kind, isRemoved]), [['kept-acceleration', true]]);
  });

  test('pods that come and go leave no map, link or descriptor behind', async () => {
    const agent = startAgent();
    const [stays] = lab.pods;
    assert.ok(stays);
    const info = await agent.turnAccelerationOn({ profile: 'istio', pods: [stays.enrolment], keep: true }, CONTEXT);
    programIds.push(...info.programIds);
    const name = `${lab.id}-${randomBytes(3).toString('hex')}`;
    const folder = join(findCgroup2Mount(), name);
    const guest = { cgroup: `/${name}` as CgroupPath, addresses: [toIpAddress('10.99.81.1')] };
    const countDescriptors = (): number => readdirSync('/proc/self/fd').length;
    const before = countDescriptors();
    for (let round = 0; round < 200; round += 1) {
      mkdirSync(folder);
      await agent.turnAccelerationOn({ profile: 'istio', pods: [guest] }, CONTEXT);
      if (round % 2 === 0) {
        await agent.turnAccelerationOff({ cgroups: [guest.cgroup] }, CONTEXT);
        rmdirSync(folder);
      } else {
        rmdirSync(folder);
        await waitUntil(async () => (await list(agent))[0]?.pods.length === 1, 'the pod is still there');
      }
    }
    await waitUntil(async () => (await list(agent))[0]?.leaving === undefined, 'a pod is still leaving');
    const [now] = await list(agent);
    assert.deepEqual(sorted(now), sorted(info));
    assert.equal(countDescriptors(), before);
    assert.equal(notices.length, 100);
  });
});

/** Links and maps are opened in another order by who takes them over. */
function sorted(info: AccelerationInfo | undefined): object {
  const sort = (ids: readonly number[] = []): number[] => [...ids].sort((left, right) => left - right);
  return { ...info, programIds: sort(info?.programIds), mapIds: sort(info?.mapIds), linkIds: sort(info?.linkIds) };
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }
}
