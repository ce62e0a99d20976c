import * as vscode from 'vscode';
import { ISTIO_PROFILE, type PodEnrolment, type PodInfo } from '../../agent/protocol/acceleration.ts';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { describeLimits } from '../views/limitTexts.ts';
import { askDoctor, type DoctorFindings } from './askDoctor.ts';
import { chooseReadyNode, subjectOf, type ReadyNode } from './choose.ts';
import { withCancellableProgress, withViewProgress } from './progress.ts';
import type { Services } from './services.ts';

const TURN_ON = 'Turn On';
const TURN_ON_AND_KEEP = 'Turn On and Keep';

/** Asks which pods to accelerate, confirms on a node that is real, and turns acceleration on for their cgroups. */
export async function turnAccelerationOn(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  refuseUnable(chosen);
  const [pods, accelerations] = await withViewProgress(() => Promise.all([chosen.node.call('listPods', {}), chosen.node.call('listAccelerations', {})]));
  const on = new Set(accelerations.flatMap((acceleration) => acceleration.pods.map((pod) => pod.cgroup)));
  const subject = subjectOf(argument);
  const wanted = subject?.type === 'cgroup' ? subject.path : undefined;
  const candidates = pods.flatMap((pod) => enrolmentsOf(pod).filter((enrolment) => !on.has(enrolment.cgroup)).map((enrolment) => ({ pod, enrolment })));
  if (candidates.length === 0) {
    throw nothingToAccelerate(on.size > 0);
  }
  const picked = await vscode.window.showQuickPick(
    candidates.map(({ pod, enrolment }) => ({
      label: pod.name,
      description: `${enrolment.cgroup} · ${enrolment.addresses.join(', ')}`,
      detail: pod.profile === null ? '$(warning) No sidecar listens here: its connections would find nobody' : `${pod.profile} sidecar found`,
      picked: wanted === undefined ? pod.profile !== null : enrolment.cgroup === wanted,
      enrolment,
      profile: pod.profile,
    })),
    { title: 'Turn Acceleration On', placeHolder: 'For which pods?', canPickMany: true, matchOnDescription: true },
  );
  if (picked === undefined || picked.length === 0) {
    return;
  }
  const profile = picked.find((item) => item.profile !== null)?.profile ?? ISTIO_PROFILE.name;
  const enrolments = picked.map((item) => item.enrolment);
  const findings = await askDoctor(services, chosen);
  if (findings === undefined) {
    return;
  }
  const keep = await confirm(chosen, profile, enrolments, findings);
  if (keep === undefined) {
    return;
  }
  const answers = { acceptedLimits: findings.asked.map(({ id }) => id), overriddenFindings: findings.overridden.map(({ id }) => id) };
  const label = chosen.known.session.label;
  services.log.info(`${label}: turning acceleration on with profile ${profile} for ${enrolments.map((item) => `${item.cgroup} (${item.addresses.join(', ')})`).join('; ')}`);
  const info = await withCancellableProgress(`Turning acceleration on at ${label}`, (signal) => chosen.node.call('turnAccelerationOn', { profile, pods: enrolments, ...answers, ...(keep ? { keep } : {}) }, { signal }));
  services.log.info(`${label}: acceleration is on; programs ${info.programIds.join(', ')}; maps ${info.mapIds.join(', ')}; links ${info.linkIds.join(', ')}`);
  services.contextKeys.set('meshpath.walkthrough.accelerated', true);
  services.directory.refresh(chosen.known.key);
}

/** What the node told when it was connected: without privileges it does not even show its pods. */
function refuseUnable({ known }: ReadyNode): void {
  const { state } = known.session;
  const problem = state.phase === 'ready' ? (state.description.abilities.find(({ name }) => name === 'accelerate')?.problem ?? null) : null;
  if (problem !== null) {
    throw new MeshpathError(problem);
  }
}

/** What turning on for this pod would enrol: each of its cgroups with the pod's addresses. */
function enrolmentsOf(pod: PodInfo): readonly PodEnrolment[] {
  return pod.cgroups.map((cgroup) => ({ cgroup, addresses: pod.addresses }));
}

/** Gives whether acceleration is to be kept; undefined: it is not wanted. */
async function confirm(chosen: ReadyNode, profile: string, enrolments: readonly PodEnrolment[], { asked, overridden }: DoctorFindings): Promise<boolean | undefined> {
  if (chosen.known.session.target.kind === 'simulated' && asked.length === 0) {
    return false;
  }
  const answer = await vscode.window.showWarningMessage(
    `Turn acceleration on at ${chosen.known.session.label}?`,
    {
      modal: true,
      detail: [
        'This loads eBPF programs into the kernel and attaches them to:',
        ...enrolments.map((item) => `• ${item.cgroup} (${item.addresses.join(', ')})`),
        '',
        `Profile: ${profile}. Only new connections are accelerated. It goes off when you turn it off or disconnect; open connections go on.`,
        `Kept, it stays on when you disconnect, pinned below /sys/fs/bpf/meshpath, until you turn it off or clean up the node.`,
        ...(asked.length > 0 ? ['', 'By turning it on you accept these limits:', ...describeLimits(asked)] : []),
        ...(overridden.length > 0 ? ['', `The doctor is overridden: ${overridden.map(({ id }) => id).join(', ')}.`] : []),
      ].join('\n'),
    },
    TURN_ON,
    TURN_ON_AND_KEEP,
  );
  return answer === undefined ? undefined : answer === TURN_ON_AND_KEEP;
}

function nothingToAccelerate(allOn: boolean): MeshpathError {
  return new MeshpathError({
    code: 'INPUT_INVALID',
    message: allOn ? 'Acceleration is already on for every pod of this node.' : 'There is no pod on this node.',
    reason: allOn ? 'Every pod that was found is accelerated.' : 'No network namespace with processes of its own and a cgroup was found.',
    remedy: allOn ? 'Turn it off for a cgroup to turn it on anew.' : 'Start a pod, or a process in a network namespace and a cgroup of its own.',
  });
}
