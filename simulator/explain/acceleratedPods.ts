import type { MeshProfile, PodInfo } from '../../agent/protocol/acceleration.ts';
import { MESH_PROFILES } from '../../agent/protocol/acceleration.ts';
import type { CgroupPath } from '../../agent/protocol/scalars.ts';
import type { Snapshot } from '../../agent/protocol/snapshot.ts';
import type { EnrolledPod } from '../bpf/datapath.ts';

/** The pods of one mesh profile that the programs serve. */
export interface AcceleratedPods {
  readonly profile: MeshProfile;
  readonly pods: readonly EnrolledPod[];
}

export interface Enrolment {
  readonly groups: readonly AcceleratedPods[];
  /** Sentences. */
  readonly assumptions: readonly string[];
}

/**
 * Gives the pods whose connections the programs take: those for which acceleration is on in the snapshot, or, where it
 * is on for none, every pod in which a known mesh was found, as if it were on.
 */
export function enrolledPods(snapshot: Snapshot): Enrolment {
  const ids = new Map(snapshot.cgroups.map((cgroup) => [cgroup.path, BigInt(cgroup.id)]));
  if (snapshot.accelerations.length > 0) {
    const groups = snapshot.accelerations.flatMap((acceleration): AcceleratedPods[] => {
      const profile = findProfile(acceleration.profile);
      return profile === undefined ? [] : [{ profile, pods: acceleration.pods.map((pod) => ({ ...pod, cgroupId: ids.get(pod.cgroup) ?? 0n })) }];
    });
    return { groups, assumptions: [] };
  }
  const groups = MESH_PROFILES.flatMap((profile): AcceleratedPods[] => {
    const pods = snapshot.pods.filter((pod) => pod.profile === profile.name).flatMap((pod) => podCgroups(pod, snapshot.pods).map((cgroup) => ({ cgroup, cgroupId: ids.get(cgroup) ?? 0n, addresses: pod.addresses })));
    return pods.length === 0 ? [] : [{ profile, pods }];
  });
  const names = groups.flatMap(({ pods }) => pods.map((pod) => pod.cgroup)).join(', ');
  const assumption = names === '' ? 'No pod of a known mesh was found: the programs are attached to nothing.' : `Acceleration is on for no pod; this shows what it would do, on for ${names}.`;
  return { groups, assumptions: [assumption] };
}

/** Gives the profile of a name; undefined where no such mesh is known. */
export function findProfile(name: string): MeshProfile | undefined {
  return MESH_PROFILES.find((profile) => profile.name === name);
}

/** The cgroup that all processes of the pod are in and no others are, else each of its cgroups. */
function podCgroups(pod: PodInfo, pods: readonly PodInfo[]): readonly CgroupPath[] {
  const [first] = pod.cgroups;
  if (first === undefined) {
    return [];
  }
  const parts = first.split('/').slice(1);
  for (let length = parts.length; length > 0; length -= 1) {
    const candidate = `/${parts.slice(0, length).join('/')}` as CgroupPath;
    if (pod.cgroups.every((cgroup) => isAtOrBelow(cgroup, candidate))) {
      const isShared = pods.some((other) => other !== pod && other.cgroups.some((cgroup) => isAtOrBelow(cgroup, candidate)));
      return isShared || candidate === '/' ? pod.cgroups : [candidate];
    }
  }
  return pod.cgroups;
}

/** Says whether a cgroup is another one or below it. */
export function isAtOrBelow(path: CgroupPath, ancestor: CgroupPath): boolean {
  return ancestor === '/' || path === ancestor || path.startsWith(`${ancestor}/`);
}
