import type { DoctorCheck } from '../protocol/doctor.ts';
import type { CgroupInfo, LinkInfo, MapInfo, ObjectOwner, ProgramInfo } from '../protocol/kernelObjects.ts';

/** The attach types of Meshpath's programs. */
const OWN_HOOKS: ReadonlySet<string> = new Set(['cgroup_inet4_connect', 'cgroup_sock_ops', 'cgroup_getsockopt', 'cgroup_inet4_getpeername']);
/** Program types that take a socket's parser or verdict, of which it has one. */
const SOCKET_PROGRAM_TYPES: ReadonlySet<string> = new Set(['sk_msg', 'sk_skb']);
const MAX_NAMED = 5;

/**
 * Looks at who else is attached to the hooks that Meshpath needs. An exclusive attachment refuses others at and below its
 * cgroup; one that may be overridden would not run any more below; others run as well and may rewrite the same connection
 * (kernel/bpf/cgroup.c, hierarchy_allows_attach and compute_effective_progs).
 */
export function checkHookOwners(cgroups: readonly CgroupInfo[], programs: readonly ProgramInfo[]): DoctorCheck {
  const owners = new Map(programs.map((program) => [program.id, program.owner]));
  const others = cgroups.flatMap(({ path, attachments }) =>
    attachments.filter(({ attachType, attachedTo, programId }) => OWN_HOOKS.has(attachType) && attachedTo === path && owners.get(programId)?.kind !== 'meshpath'),
  );
  const check = { id: 'hook-owners', title: 'Other owners of the hooks' } as const;
  if (others.length === 0) {
    return { ...check, result: 'ok', found: 'Nobody else is attached to connect4, sockops, getsockopt or getpeername4 of a cgroup.', problem: null };
  }
  const described = others.map(
    ({ attachType, attachedTo, mode, programId, programName }) =>
      `${programName || 'a program without a name'} (id ${programId}, ${ownerText(owners.get(programId))}) at ${attachType} of ${attachedTo}, ${MODE_TEXT[mode]}`,
  );
  const closesAll = others.some(({ mode, attachedTo }) => mode === 'exclusive' && attachedTo === '/');
  const closesSome = others.some(({ mode }) => mode === 'exclusive');
  return {
    ...check,
    result: closesAll ? 'failed' : 'limited',
    found: `${others.length} ${others.length === 1 ? 'program is' : 'programs are'} attached to the same hooks: ${nameSome(described)}.`,
    problem: {
      code: closesSome ? 'BPF_ATTACH_EXCLUSIVE' : 'BPF_ATTACH_FAILED',
      message: closesAll
        ? 'Another program keeps everybody else off a hook of the whole node.'
        : closesSome
          ? 'Another program keeps everybody else off a hook of some cgroups.'
          : 'Other programs take part in the same decisions.',
      reason: `Found ${nameSome(described)}.`,
      remedy: closesSome
        ? 'Stop its owner, or have it attach with BPF_F_ALLOW_MULTI or a link; cgroups elsewhere can be accelerated.'
        : 'Look at what it does before you accelerate cgroups that it runs for: two programs that rewrite connections do not know of each other.',
    },
  };
}

/** Looks at who else puts sockets into socket maps with a program: a socket takes part in one such program only (EBUSY, net/core/sock_map.c). */
export function checkSocketMapUsers(programs: readonly ProgramInfo[]): DoctorCheck {
  const others = programs.filter(({ type, owner }) => SOCKET_PROGRAM_TYPES.has(type) && owner.kind !== 'meshpath');
  const check = { id: 'socket-map-users', title: 'Other users of socket maps' } as const;
  if (others.length === 0) {
    return { ...check, result: 'ok', found: 'Nobody else has a program for messages or streams of sockets.', problem: null };
  }
  const described = nameSome(others.map(({ name, id, type, owner }) => `${name || 'a program without a name'} (id ${id}, ${type}, ${ownerText(owner)})`));
  return {
    ...check,
    result: 'limited',
    found: `Others have programs for messages or streams of sockets: ${described}.`,
    problem: {
      code: 'BPF_ATTACH_FAILED',
      message: 'Sockets that another program has taken cannot be accelerated.',
      reason: `${described} may hold sockets of the same pods, and the kernel lets a socket have one such program only.`,
      remedy: 'Do not run both for the same pods; connections that cannot be accelerated go on over plain TCP and are counted as enrol_failed.',
    },
  };
}

/** Looks for objects of Meshpath that no living process holds. */
export function checkLeftovers(objects: { readonly programs: readonly ProgramInfo[]; readonly maps: readonly MapInfo[]; readonly links: readonly LinkInfo[] }): DoctorCheck {
  const check = { id: 'leftovers', title: 'Leftovers of Meshpath' } as const;
  const own = objects.programs.filter(({ owner }) => owner.kind === 'meshpath');
  const pins = [objects.programs, objects.maps, objects.links].flat().flatMap(({ owner }) => (owner.kind === 'meshpath' ? owner.pins : []));
  const abandoned = own.filter(({ owner }) => owner.processes.length === 0);
  if (pins.length === 0 && abandoned.length === 0) {
    const agents = new Set(own.flatMap(({ owner }) => owner.processes.map(({ pid }) => pid)));
    agents.delete(process.pid);
    return {
      ...check,
      result: 'ok',
      found: agents.size === 0 ? 'No program of Meshpath is left behind.' : `None; another agent is at work (process ${[...agents].join(', ')}).`,
      problem: null,
    };
  }
  const found = [
    ...(abandoned.length > 0 ? [`${abandoned.length} programs that no process holds (ids ${nameSome(abandoned.map(({ id }) => String(id)))})`] : []),
    ...(pins.length > 0 ? [`pins at ${nameSome(pins)}`] : []),
  ].join(' and ');
  return {
    ...check,
    result: 'limited',
    found: `There are ${found}.`,
    problem: {
      code: 'ACCELERATION_OVERLAPS',
      message: 'Objects of Meshpath are left from before.',
      reason: `There are ${found}. Programs without a pin stay as long as connections that were accelerated are open.`,
      remedy: pins.length > 0 ? 'Where acceleration was not kept on purpose, remove it: `meshpath clean` (in VS Code: Meshpath: Clean Up Node).' : 'They go away when these connections close. Restart the pods to close them now.',
    },
  };
}

const MODE_TEXT = { exclusive: 'exclusive', override: 'may be overridden', multi: 'beside others' } as const;

function ownerText(owner: ObjectOwner | undefined): string {
  const holder = owner?.processes[0];
  if (holder !== undefined) {
    return `held by ${holder.command} with process id ${holder.pid}`;
  }
  const pin = owner?.pins[0];
  return pin === undefined ? 'held by the kernel only' : `pinned at ${pin}`;
}

function nameSome(names: readonly string[], separator = '; '): string {
  const more = names.length - MAX_NAMED;
  return `${names.slice(0, MAX_NAMED).join(separator)}${more > 0 ? ` and ${more} more` : ''}`;
}
