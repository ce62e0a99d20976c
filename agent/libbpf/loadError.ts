import { constants } from 'node:os';
import { MeshpathError } from '../protocol/errors.ts';

const { EACCES, EAGAIN, ENOMEM, EPERM } = constants.errno;

/**
 * Gives the error for programs or maps that the kernel did not load. `description` is the errno as text, `messages` are what libbpf
 * had to say, the end of the verifier's log among it.
 */
export function loadError(errno: number, description: string, messages: string): MeshpathError {
  const reason = `Loading failed with ${description}. ${messages}`.trim();
  // A verifier that refuses gives EACCES or EPERM too; then there is its log.
  if (!messages.includes('BEGIN PROG LOAD LOG') && (errno === EPERM || errno === EACCES)) {
    return new MeshpathError({
      code: 'CAPABILITY_MISSING',
      message: 'The kernel does not let this user load BPF programs.',
      reason,
      remedy:
        'Connect as root or with sudo: CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN are needed. Where root is refused too, look at `sysctl kernel.unprivileged_bpf_disabled` and at the kernel lockdown mode.',
    });
  }
  return new MeshpathError({ code: 'BPF_LOAD_FAILED', message: 'The kernel refused the programs.', reason, remedy: remedyOf(errno) });
}

function remedyOf(errno: number): string {
  switch (errno) {
    // The verifier gives up when a signal is pending (kernel/bpf/verifier.c, do_check); libbpf has tried five times by then.
    case EAGAIN:
      return 'The kernel was interrupted while it checked the programs. Try again; where it happens every time, look what sends signals to the agent.';
    case ENOMEM:
      return 'The node has too little memory for the maps, or the memory cgroup of the agent is full: free some, or raise its limit (memory.max).';
    default:
      return 'Meshpath needs Linux 5.10 or newer with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_BPF_STREAM_PARSER. Report the reason above if this kernel has them.';
  }
}
