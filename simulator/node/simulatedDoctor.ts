import type { DoctorCheck, DoctorReport } from '../../agent/protocol/doctor.ts';
import { DOCTOR_CHECKS, judge, toCheck } from '../../agent/protocol/doctorChecks.ts';
import type { DoctorCheckId } from '../../agent/protocol/doctorChecks.ts';
import type { NodeIdentity } from '../../agent/protocol/snapshot.ts';

/** What the simulated kernel does where the self-tests try a kernel of Linux. */
const FOUND: Readonly<Record<Exclude<DoctorCheckId, 'kernel-version' | 'leftovers'>, string>> = {
  btf: 'The programs use contexts only, which need no BTF of the kernel.',
  cgroup2: 'The simulated cgroups are of cgroup2.',
  'capability-bpf': 'A simulated node asks for no privileges.',
  libbpf: 'The virtual machine loads the object itself and needs no libbpf.',
  'hook-owners': 'No other program is attached to the hooks of connect, sockops, getsockopt or getpeername.',
  'socket-map-users': 'Nobody else has a program for messages or streams of sockets.',
  tools: 'Snapshots of a simulated node need no programs.',
  'message-order': 'Simulated messages arrive in the order in which they were sent.',
  'wake-up': 'Simulated readers see a redirected message at once.',
  peek: 'No simulated application looks at bytes without reading them.',
  'back-pressure': 'Simulated applications read everything that they are sent.',
  close: 'Simulated applications read everything before they close.',
  'half-close': 'No simulated application closes one direction only.',
  reset: 'No simulated application resets its connections.',
  fionread: 'No simulated application asks how much it can read.',
  splice: 'No simulated application or sidecar splices.',
  zerocopy: 'No simulated application sends with MSG_ZEROCOPY.',
  oob: 'No simulated application sends urgent data.',
  ktls: 'The simulated kernel has no TLS of its own, so that no program uses it.',
  enrolment: 'Messages go from socket to socket inside a pod and between pods.',
  'original-destination': 'SO_ORIGINAL_DST tells simulated sidecars where their clients wanted to go.',
  'peer-name': 'getpeername gives simulated applications the address that they connected to.',
  'socket-owner': 'Simulated sockets are told apart by who made them.',
  'reused-addresses': 'Keys of simulated sockets name the connecting socket: no entry is replaced.',
};

/**
 * Gives the checks of a simulated node: the same as on a Linux node, of a kernel that has what they ask for, but for those that are to
 * be otherwise.
 */
export function checkSimulatedNode(identity: NodeIdentity, acceleratedPods: number, otherwise: readonly DoctorCheck[]): readonly DoctorCheck[] {
  const found: Readonly<Record<DoctorCheckId, string>> = {
    ...FOUND,
    'kernel-version': `The simulated kernel calls itself ${identity.kernelRelease}.`,
    leftovers: acceleratedPods === 0 ? 'Nothing of an earlier run is there.' : `Acceleration is on for ${acceleratedPods} ${acceleratedPods === 1 ? 'pod' : 'pods'}, turned on here.`,
  };
  return (Object.keys(DOCTOR_CHECKS) as DoctorCheckId[]).map((id) => otherwise.find((check) => check.id === id) ?? toCheck(id, { result: 'ok', found: found[id], problem: null }));
}

/** Gives the report of these checks. */
export function describeSimulatedHealth(checks: readonly DoctorCheck[], at: string): DoctorReport {
  return { ...judge(checks), checks, at };
}
