import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname } from 'node:path';
import { MeshpathError } from '../protocol/errors.ts';
import type { CgroupPath } from '../protocol/scalars.ts';
import { createIntrospection } from '../libbpf/introspection.ts';
import type { Introspection } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { withCgroup } from './podCgroup.ts';

const { E2BIG, EACCES, EPERM } = constants.errno;
const BPF_F_ALLOW_MULTI = 2;

/** Something that could not be attached. */
export interface FailedAttach {
  readonly program: string;
  readonly attachType: number;
  readonly cgroup: CgroupPath;
  readonly errno: number;
}

/**
 * Gives the error for a program that could not be attached to a cgroup. The kernel refuses with EPERM where a program
 * of the cgroup, or of one above it, was attached without BPF_F_ALLOW_MULTI (kernel/bpf/cgroup.c,
 * hierarchy_allows_attach): then the error names it.
 */
export function attachError(libbpf: Libbpf, mount: string, failed: FailedAttach): MeshpathError {
  const owner = failed.errno === EPERM ? findExclusiveOwner(createIntrospection(libbpf), mount, failed) : undefined;
  const reason = `Attaching ${failed.program} to ${failed.cgroup} failed with ${libbpf.describe(failed.errno)}.`;
  if (owner !== undefined) {
    return new MeshpathError({
      code: 'BPF_ATTACH_EXCLUSIVE',
      message: `Another program holds ${owner.cgroup} for itself.`,
      reason: `${reason} ${owner.programs} at ${owner.cgroup} was attached so that no other can be (without BPF_F_ALLOW_MULTI).`,
      remedy: 'Stop the software that owns this program, or have it attach with BPF_F_ALLOW_MULTI. `bpftool cgroup tree` shows what is attached.',
    });
  }
  if (failed.errno === EPERM || failed.errno === EACCES) {
    return new MeshpathError({
      code: 'CAPABILITY_MISSING',
      message: 'The kernel does not let this user attach BPF programs.',
      reason,
      remedy: 'Connect as root or with sudo: CAP_BPF and CAP_NET_ADMIN are needed.',
    });
  }
  return new MeshpathError({
    code: 'BPF_ATTACH_FAILED',
    message: 'The kernel refused to attach a program.',
    reason,
    remedy:
      failed.errno === E2BIG
        ? 'The cgroup has as many programs of this kind as the kernel allows (64). `bpftool cgroup tree` shows them.'
        : 'Check that the folder is a cgroup of version 2 and that the kernel has CONFIG_CGROUP_BPF and CONFIG_BPF_STREAM_PARSER.',
  });
}

interface ExclusiveOwner {
  readonly cgroup: CgroupPath;
  /** `mb_connect4 (program 17)` */
  readonly programs: string;
}

function findExclusiveOwner(introspection: Introspection, mount: string, { cgroup, attachType }: FailedAttach): ExclusiveOwner | undefined {
  for (let at = cgroup; ; at = dirname(at) as CgroupPath) {
    const attached = withCgroup(mount, at, ({ fd }) => introspection.queryCgroup(fd, attachType, false));
    if (attached !== undefined && attached.programIds.length > 0 && (attached.flags & BPF_F_ALLOW_MULTI) === 0) {
      return { cgroup: at, programs: attached.programIds.map((id) => describeProgram(introspection, id)).join(', ') };
    }
    if (at === '/') {
      return undefined;
    }
  }
}

/** Gives the name and the id of a program. */
export function describeProgram(introspection: Introspection, id: number): string {
  const fd = introspection.open('program', id);
  if (fd === undefined) {
    return `program ${id}`;
  }
  try {
    return `${introspection.programInfo(fd).name} (program ${id})`;
  } finally {
    closeSync(fd);
  }
}
