import { once } from 'node:events';
import { ISTIO_PROFILE, MESH_PROFILES } from '../../agent/protocol/acceleration.ts';
import type { AccelerationInfo, AccelerationRequest, DecisionCounters, DecisionEvents, PodEnrolment } from '../../agent/protocol/acceleration.ts';
import { DOCTOR_CHECKS } from '../../agent/protocol/doctorChecks.ts';
import { inputError, MeshpathError } from '../../agent/protocol/errors.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { toCgroupPath } from '../cgroupPath.ts';
import { EXIT_OK } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';
import { formatDecision, formatTurnedOff, formatTurnedOn } from '../decisionText.ts';
import type { PodNames } from '../decisionText.ts';
import { writeLines } from '../output.ts';
import { parsePodArgument } from '../podArgument.ts';

export const accelerateCommand: Command = {
  name: 'accelerate',
  summary: 'Turn acceleration on for pods, show what it decides, and turn it off at the end.',
  usage: '--pod CGROUP_PATH=IP[,IP]…',
  operands: { min: 0, max: 0 },
  description: [
    'Loads the programs, attaches them to the cgroups of these pods, and prints one line for each decision as it is taken. SIGINT (Ctrl+C), SIGTERM, SIGHUP or the end of the reader of its output turn acceleration off: the exit code is then 0, and nothing is left behind. Connections that are open then go on over plain TCP.',
    'CGROUP_PATH is relative to the cgroup2 mount, or absolute below the mount point. Name every address of a pod. Only connections that are opened afterwards are accelerated.',
    'With --keep the command ends as soon as acceleration is on, and it stays on: everything is pinned below /sys/fs/bpf/meshpath, where the next agent takes it over, and programs of another version are exchanged for its own. `meshpath clean` turns it off.',
    'First the doctor looks whether it is safe (see meshpath doctor; what this boot of the node has shown is not tried again). Limits that some applications would notice are told with what is on; with --refuse-limits they end the command instead. Where acceleration is refused, --override-doctor turns it on all the same, once for each finding that it overrides.',
    'With --json every line is one JSON object: {"on": …}, then {"event": …} and {"lost": N}, at the end {"off": …, "counters": …}.',
  ],
  options: {
    pod: { type: 'string', multiple: true, valueName: 'CGROUP_PATH=IP[,IP]', description: 'A pod to accelerate.' },
    profile: { type: 'string', valueName: 'NAME', description: `The mesh: ${MESH_PROFILES.map(({ name }) => name).join(', ')} (${ISTIO_PROFILE.name}).` },
    keep: { type: 'boolean', description: 'Leave it on when the command ends; meshpath clean turns it off.' },
    'refuse-limits': { type: 'boolean', description: 'Turn nothing on where the doctor says that some applications would notice.' },
    'override-doctor': { type: 'string', multiple: true, valueName: 'CHECK', description: 'Turn it on in spite of this finding of the doctor.' },
  },
  endsItself: true,
  run: async (context) => {
    const { arguments: args, stop } = context;
    const pods = await readPods(args.texts('pod'));
    const profile = args.text('profile') ?? ISTIO_PROFILE.name;
    const limits = args.flag('refuse-limits') ? { acceptedLimits: [] } : {};
    const overriddenFindings = args.texts('override-doctor').map(checkFinding);
    const node = await context.connect();
    if (args.flag('keep')) {
      return keep(context, node, { profile, pods, keep: true, ...limits, overriddenFindings });
    }
    const printer = createPrinter(context, await readPodNames(node, pods));
    const unlisten = node.listen('decisions', printer.decisions);
    try {
      const info = await node.call('turnAccelerationOn', { profile, pods, ...limits, overriddenFindings }, { signal: stop });
      printer.turnedOn(info);
      await waitForEnd(node, stop);
      const counters = await node.call('countDecisions', { profile });
      const report = await node.call('turnAccelerationOff', { cgroups: pods.map(({ cgroup }) => cgroup) });
      await printer.turnedOff(report, counters);
    } catch (error) {
      // A stop that came while acceleration was being turned on: nothing is on, which is what was asked for.
      if (!(stop.aborted && MeshpathError.is(error, 'CANCELLED'))) {
        throw error;
      }
    } finally {
      unlisten();
    }
    return EXIT_OK;
  },
};

/** Turns on what is kept, after exchanging the programs of another version where the profile is on with those. */
async function keep({ arguments: args, output, stop }: CommandContext, node: Node, request: AccelerationRequest): Promise<number> {
  const isOutdated = (await node.call('listAccelerations', {})).some(({ profile, pods, kept }) => profile === request.profile && pods.length > 0 && kept?.isOutdated === true && kept.heldBy === null);
  if (isOutdated) {
    await node.call('upgradeAcceleration', { profile: request.profile }, { signal: stop });
  }
  const info = await node.call('turnAccelerationOn', request, { signal: stop });
  await writeLines(output, args.flag('json') ? [JSON.stringify({ on: info })] : [...formatTurnedOn(info, output.style), 'It is kept: `meshpath clean` turns it off.']);
  return EXIT_OK;
}

function checkFinding(id: string): string {
  if (!Object.hasOwn(DOCTOR_CHECKS, id)) {
    throw inputError(`The doctor has no check '${id.slice(0, 60)}'.`, `Its checks are ${Object.keys(DOCTOR_CHECKS).join(', ')}.`, 'Give the name that the refusal told; meshpath doctor --json has them all as "id".');
  }
  return id;
}

async function readPods(texts: readonly string[]): Promise<PodEnrolment[]> {
  if (texts.length === 0) {
    throw inputError('No pod was given.', 'meshpath accelerate needs to know the pods.', 'Give --pod CGROUP_PATH=IP for each; meshpath cgroups lists cgroups.');
  }
  return Promise.all(
    texts.map(async (text) => {
      const { cgroup, addresses } = parsePodArgument(text);
      return { cgroup: await toCgroupPath(cgroup), addresses };
    }),
  );
}

/** Gives the last part of each pod's cgroup path by the cgroup's id, which is what events know. */
async function readPodNames(node: Node, pods: readonly PodEnrolment[]): Promise<PodNames> {
  const lists = await Promise.all(pods.map(({ cgroup }) => node.call('listCgroups', { below: cgroup })));
  return new Map(lists.flat().map(({ id, path }) => [id, path.slice(path.lastIndexOf('/') + 1)]));
}

/** Resolves at a stop; rejects where the node ends first. */
async function waitForEnd(node: Node, stop: AbortSignal): Promise<void> {
  if (stop.aborted) {
    return;
  }
  const ended = node.closed.then((error) => {
    throw (
      error ??
      new MeshpathError({
        code: 'AGENT_STOPPED',
        message: 'The agent has ended.',
        reason: 'Its connection was closed.',
        remedy: 'Start meshpath accelerate again.',
      })
    );
  });
  await Promise.race([once(stop, 'abort'), ended]);
}

interface Printer {
  readonly decisions: (batch: DecisionEvents) => void;
  readonly turnedOn: (info: AccelerationInfo) => void;
  readonly turnedOff: (report: Parameters<typeof formatTurnedOff>[0], counters: DecisionCounters) => Promise<void>;
}

/** Events that wait for a slow reader of the output; more are counted as lost. */
const MAX_WAITING_EVENTS = 50_000;

/** Writes in the order of the calls, each only when the reader has taken the one before. */
function createPrinter({ arguments: args, output }: CommandContext, pods: PodNames): Printer {
  const isJson = args.flag('json');
  let lost = 0;
  let waiting = 0;
  let written = Promise.resolve();
  /** Decisions of before the line that says that acceleration is on; null once it was printed. */
  let early: DecisionEvents[] | null = [];
  const print = (lines: readonly string[]): Promise<void> => (written = written.then(() => writeLines(output, lines)));
  const printDecisions = (batch: DecisionEvents): void => {
    const events = batch.events.slice(0, Math.max(0, MAX_WAITING_EVENTS - waiting));
    const newlyLost = batch.lost + batch.events.length - events.length;
    lost += newlyLost;
    waiting += events.length;
    const lostLine = isJson && newlyLost > 0 ? [JSON.stringify({ lost: newlyLost })] : [];
    const lines = events.map((event) => (isJson ? JSON.stringify({ event }) : formatDecision(event, pods, output.style)));
    void print([...lines, ...lostLine]).then(() => (waiting -= events.length));
  };
  return {
    decisions: (batch) => {
      if (early === null) {
        printDecisions(batch);
      } else {
        early.push(batch);
      }
    },
    turnedOn: (info) => {
      void print(isJson ? [JSON.stringify({ on: info })] : formatTurnedOn(info, output.style));
      early?.forEach(printDecisions);
      early = null;
    },
    turnedOff: (report, counters) =>
      print(isJson ? [JSON.stringify({ off: report, counters })] : formatTurnedOff(report, counters, lost, output.style)),
  };
}
