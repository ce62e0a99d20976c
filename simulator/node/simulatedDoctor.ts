import type { DoctorCheck, DoctorReport } from '../../agent/protocol/doctor.ts';
import type { NodeIdentity } from '../../agent/protocol/snapshot.ts';

/** Gives the doctor's report of a simulated node: the same checks as on a Linux node, of a kernel that has what they ask for. */
export function describeSimulatedHealth(identity: NodeIdentity, acceleratedPods: number, at: string): DoctorReport {
  const check = (id: string, title: string, found: string): DoctorCheck => ({ id, title, result: 'ok', found, problem: null });
  return {
    verdict: 'safe',
    summary: 'This node is simulated: its kernel runs the programs in a virtual machine and has what acceleration needs.',
    checks: [
      check('kernel-version', 'Kernel version', `The simulated kernel calls itself ${identity.kernelRelease}.`),
      check('btf', 'Type information of the kernel (BTF)', 'The programs use contexts only, which need no BTF of the kernel.'),
      check('cgroup2', 'cgroup2 hierarchy', 'The simulated cgroups are of cgroup2.'),
      check('capability-bpf', 'Privileges of the agent', 'A simulated node asks for no privileges.'),
      check('libbpf', 'libbpf', 'The virtual machine loads the object itself and needs no libbpf.'),
      check('hook-owners', 'Other owners of the hooks', 'No other program is attached to the hooks of connect, sockops, getsockopt or getpeername.'),
      check('leftovers', 'Leftovers of Meshpath', acceleratedPods === 0 ? 'Nothing of an earlier run is there.' : `Acceleration is on for ${acceleratedPods} pod(s), turned on here.`),
    ],
    at,
  };
}
