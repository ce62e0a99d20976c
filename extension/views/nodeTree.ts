import type { AccelerationInfo } from '../../agent/protocol/acceleration.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import type { AttachTarget, CgroupAttachment, CgroupInfo, LinkInfo, MapInfo, ObjectOwner, ProgramInfo } from '../../agent/protocol/kernelObjects.ts';
import type { LabInfo } from '../../agent/protocol/lab.ts';
import { describeLabSetting } from '../../agent/protocol/labText.ts';
import type { CgroupPath, ProgramId } from '../../agent/protocol/scalars.ts';
import { COMMANDS, type CommandId, type RowKind } from '../contributions.ts';
import type { NodeTarget, SessionState } from '../node/nodeSession.ts';
import type { Listing, NodeContents } from './nodeContents.ts';

/** How many rows a list shows before "Show more". */
export const ROWS_PER_STEP = 200;

/** What a row stands for: what commands get when they are called on it. */
export type RowSubject =
  | { readonly type: 'node'; readonly node: string }
  | { readonly type: 'map'; readonly node: string; readonly map: MapInfo }
  | { readonly type: 'program'; readonly node: string; readonly program: ProgramInfo }
  | { readonly type: 'cgroup'; readonly node: string; readonly path: CgroupPath }
  | { readonly type: 'link'; readonly node: string; readonly link: LinkInfo }
  | { readonly type: 'acceleration'; readonly node: string; readonly cgroup: CgroupPath }
  | { readonly type: 'lab'; readonly node: string; readonly name: string }
  | { readonly type: 'more'; readonly node: string; readonly list: string }
  | { readonly type: 'text'; readonly node: string };

export interface RowIcon {
  /** The name of a codicon. */
  readonly name: string;
  /** A theme colour. */
  readonly color?: string;
}

/** One row of the tree as plain data. All text may hold what a node said: it is shown as text and never as markup. */
export interface TreeRow {
  /** The same for the same thing after every reload, so that the tree keeps what is open and selected. */
  readonly id: string;
  readonly kind: RowKind;
  readonly label: string;
  readonly description?: string;
  readonly tooltip?: string;
  readonly icon?: RowIcon;
  readonly subject: RowSubject;
  readonly command?: CommandId;
  readonly expanded?: boolean;
  /** Undefined: none. `lazy`: to be asked for. */
  readonly children?: readonly TreeRow[] | 'lazy';
}

const MESHPATH_COLOR = 'charts.green';

function count(number: number, singular: string, plural = `${singular}s`): string {
  return `${number} ${number === 1 ? singular : plural}`;
}

const TARGET_ICONS = { ssh: 'server', thisMachine: 'device-desktop', simulated: 'beaker' } as const satisfies Record<NodeTarget['kind'], string>;

/** Gives the row of a node in whatever state it is. */
export function nodeRow(
  key: string,
  label: string,
  target: NodeTarget,
  state: SessionState,
  accelerations: readonly AccelerationInfo[] | undefined,
): TreeRow {
  const subject: RowSubject = { type: 'node', node: key };
  const id = `node/${key}`;
  switch (state.phase) {
    case 'ready': {
      const { identity } = state.description;
      const pods = (accelerations ?? []).reduce((sum, acceleration) => sum + acceleration.pods.length, 0);
      const notes = [...(pods > 0 ? [`accelerating ${count(pods, 'pod')}`] : []), identity.kernelRelease];
      return {
        id,
        kind: 'node.connected',
        label,
        description: notes.join(' · '),
        tooltip: [
          `${identity.hostname}, kernel ${identity.kernelRelease}, ${identity.machine}`,
          state.description.uid === null ? 'Simulated: nothing here touches a real kernel.' : `The agent runs as user ${state.description.uid}.`,
          ...state.notices.map((notice) => `${notice.message} ${notice.remedy}`),
          ...state.description.abilities.flatMap((ability) => (ability.problem === null ? [] : [`${ability.problem.message} ${ability.problem.remedy}`])),
        ].join('\n'),
        icon: { name: TARGET_ICONS[target.kind], ...(pods > 0 ? { color: MESHPATH_COLOR } : {}) },
        subject,
        expanded: true,
        children: 'lazy',
      };
    }
    case 'idle':
      return {
        id,
        kind: 'node.disconnected',
        label,
        description: 'not connected',
        icon: { name: TARGET_ICONS[target.kind], color: 'disabledForeground' },
        subject,
        expanded: true,
        children: [actionRow(id, key, 'Connect', COMMANDS.reconnectNode, 'plug')],
      };
    case 'closed':
      if (state.error === null || state.error.code === 'CANCELLED') {
        return {
          id,
          kind: 'node.disconnected',
          label,
          description: state.error === null ? 'disconnected' : 'cancelled',
          icon: { name: 'debug-disconnect' },
          subject,
          children: [actionRow(id, key, 'Connect again', COMMANDS.reconnectNode, 'plug')],
          expanded: true,
        };
      }
      return {
        id,
        kind: 'node.failed',
        label,
        description: 'failed',
        tooltip: `${state.error.message}\n${state.error.reason}\n${state.error.remedy}`,
        icon: { name: 'error', color: 'list.errorForeground' },
        subject,
        children: [
          ...errorRows(id, key, state.error),
          actionRow(id, key, 'Connect again', COMMANDS.reconnectNode, 'refresh'),
          actionRow(id, key, 'Show the log', COMMANDS.showLog, 'output'),
        ],
        expanded: true,
      };
    default:
      return {
        id,
        kind: 'node.busy',
        label,
        description: 'connecting',
        tooltip: state.message,
        icon: { name: 'loading~spin' },
        subject,
        // Open in every state: the tree remembers by id what is open, and what comes next is to be seen.
        expanded: true,
        children: [{ id: `${id}/step`, kind: 'detail', label: state.message, tooltip: state.message, subject }],
      };
  }
}

function actionRow(parent: string, node: string, label: string, command: CommandId, icon: string): TreeRow {
  return { id: `${parent}/do/${command}`, kind: 'detail', label, icon: { name: icon }, subject: { type: 'node', node }, command };
}

/** Gives an error as rows: what happened, why, and what to do. */
export function errorRows(parent: string, node: string, error: MeshpathError): readonly TreeRow[] {
  const row = (name: string, label: string, icon: RowIcon): TreeRow => ({
    id: `${parent}/error/${name}`,
    kind: 'detail',
    label,
    tooltip: label,
    icon,
    subject: { type: 'text', node },
  });
  return [
    row('message', error.message, { name: 'error', color: 'list.errorForeground' }),
    row('reason', error.reason, { name: 'info' }),
    row('remedy', error.remedy, { name: 'lightbulb' }),
  ].filter((item) => item.label !== '');
}

/** Gives the groups of a connected node with everything below them. `shown` says how many rows a list shows by its id. */
export function contentRows(node: string, contents: NodeContents, shown: ReadonlyMap<string, number>): readonly TreeRow[] {
  const programs = new Map(contents.programs.ok ? contents.programs.items.map((program) => [program.id, program]) : []);
  const maps = new Map(contents.maps.ok ? contents.maps.items.map((map) => [map.id, map]) : []);
  const accelerated = new Set(contents.accelerations.ok ? contents.accelerations.items.flatMap((item) => item.pods.map((pod) => pod.cgroup)) : []);
  const group = <Item>(
    name: string,
    label: string,
    icon: string,
    listing: Listing<Item>,
    rows: (items: readonly Item[], id: string) => readonly TreeRow[],
    empty: string,
    describe: (items: readonly Item[]) => string = (items) => String(items.length),
  ): TreeRow => {
    const id = `node/${node}/${name}`;
    const base = { id, kind: 'group', label, subject: { type: 'text', node } } as const;
    if (!listing.ok) {
      return { ...base, description: 'could not be read', icon: { name: 'warning', color: 'list.warningForeground' }, children: errorRows(id, node, listing.error) };
    }
    const children = limitRows(rows(listing.items, id), id, node, shown);
    return {
      ...base,
      description: describe(listing.items),
      icon: { name: icon },
      children: children.length > 0 ? children : [{ id: `${id}/empty`, kind: 'detail', label: empty, subject: { type: 'text', node } }],
    };
  };
  return [
    group(
      'acceleration',
      'Acceleration',
      'zap',
      contents.accelerations,
      (items, id) => items.flatMap((item) => accelerationRows(node, id, item)),
      'Off: connections take the path of iptables',
      describeAccelerations,
    ),
    group('programs', 'Programs', 'circuit-board', contents.programs, (items, id) => items.map((item) => programRow(node, id, item, contents, maps)), 'No BPF programs are loaded'),
    group('maps', 'Maps', 'table', contents.maps, (items, id) => items.map((item) => mapRow(node, id, item)), 'There are no BPF maps'),
    group('cgroups', 'Cgroups', 'group-by-ref-type', contents.cgroups, (items, id) => cgroupRows(node, id, items, accelerated, shown), 'There are no cgroups'),
    group('links', 'Links', 'link', contents.links, (items, id) => items.map((item) => linkRow(node, id, item, programs, maps)), 'There are no BPF links'),
    // Most nodes have none, and need no empty list of them.
    ...(contents.labs.ok && contents.labs.items.length > 0 ? [group('labs', 'Labs', 'beaker', contents.labs, (items, id) => items.map((item) => labRow(node, id, item)), '')] : []),
  ];
}

function limitRows(rows: readonly TreeRow[], list: string, node: string, shown: ReadonlyMap<string, number>): readonly TreeRow[] {
  const limit = shown.get(list) ?? ROWS_PER_STEP;
  if (rows.length <= limit) {
    return rows;
  }
  return [
    ...rows.slice(0, limit),
    {
      id: `${list}/more`,
      kind: 'more',
      label: `Show ${Math.min(ROWS_PER_STEP, rows.length - limit)} more of ${rows.length - limit}`,
      icon: { name: 'ellipsis' },
      subject: { type: 'more', node, list },
      command: COMMANDS.showMoreRows,
    },
  ];
}

function describeAccelerations(accelerations: readonly AccelerationInfo[]): string {
  const pods = accelerations.reduce((sum, { pods: enrolled }) => sum + enrolled.length, 0);
  const leaving = accelerations.reduce((sum, item) => sum + (item.leaving ?? []).length, 0);
  return `${pods === 0 ? 'off' : `on for ${count(pods, 'pod')}`}${leaving === 0 ? '' : ` · ${count(leaving, 'pod')} leaving`}`;
}

function accelerationRows(node: string, parent: string, acceleration: AccelerationInfo): readonly TreeRow[] {
  const { profile, since, pods, leaving = [] } = acceleration;
  const kept = describeKept(acceleration);
  return [
    ...pods.map(
      (pod): TreeRow => ({
        id: `${parent}/${pod.cgroup}`,
        kind: 'acceleration',
        label: lastSegment(pod.cgroup),
        description: [profile, pod.addresses.join(', '), ...(kept === undefined ? [] : [kept.short])].join(' · '),
        tooltip: [pod.cgroup, `Profile ${profile}, on since ${since}`, `Addresses: ${pod.addresses.join(', ')}`, ...(kept === undefined ? [] : [kept.long])].join('\n'),
        icon: { name: 'zap', color: MESHPATH_COLOR },
        subject: { type: 'acceleration', node, cgroup: pod.cgroup },
      }),
    ),
    ...leaving.map(
      (pod): TreeRow => ({
        id: `${parent}/leaving${pod.cgroup}`,
        kind: 'detail',
        label: lastSegment(pod.cgroup),
        description: `${profile} · leaving: ${count(pod.openConnections, 'connection')} open`,
        tooltip: `${pod.cgroup}\nAcceleration is off for it. The programs answer about its open connections until the last of them closes.`,
        icon: { name: 'debug-disconnect' },
        subject: { type: 'text', node },
      }),
    ),
  ];
}

function describeKept({ kept }: AccelerationInfo): { readonly short: string; readonly long: string } | undefined {
  if (kept === undefined) {
    return undefined;
  }
  const held = kept.heldBy === null ? '' : ` The agent of process ${kept.heldBy} has it, and only that one can change it.`;
  return kept.isOutdated
    ? { short: 'kept, of another version', long: `Stays on without an agent. Its programs are of another version of Meshpath: upgrade them.${held}` }
    : { short: 'kept', long: `Stays on without an agent, until it is turned off or the node is cleaned up.${held}` };
}

const LAB_STATES = { up: 'up', 'being-made': 'held by a process', left: 'left over' } as const satisfies Record<LabInfo['state'], string>;

function labRow(node: string, parent: string, lab: LabInfo): TreeRow {
  const id = `${parent}/${lab.name}`;
  const isWell = lab.problems.length === 0;
  const setting = lab.profile === null || lab.path === null ? [] : [lab.profile, lab.path];
  return {
    id,
    kind: 'lab',
    label: lab.name,
    description: [LAB_STATES[lab.state], ...setting, count(lab.pods.length, 'pod')].join(' · '),
    tooltip: [describeLabSetting(lab), ...lab.problems].join('\n'),
    icon: isWell ? { name: 'beaker' } : { name: 'warning', color: 'list.warningForeground' },
    subject: { type: 'lab', node, name: lab.name },
    children: lab.pods.map((pod) => ({
      id: `${id}/${pod.name}`,
      kind: 'detail',
      label: pod.name,
      description: `${pod.address} · ${pod.processes.map(({ role, pid, running }) => `${role} ${running ? pid : 'ended'}`).join(', ')}`,
      tooltip: `${pod.cgroup}\nNetwork namespace ${pod.namespaceName}\nIts server listens at ${pod.server.address}:${pod.server.port}`,
      icon: { name: 'package' },
      subject: { type: 'cgroup', node, path: pod.cgroup },
    })),
  };
}

function describeOwner(owner: ObjectOwner): string {
  const processes = owner.processes.map((process) => `${process.command} (${process.pid})`).join(', ');
  const parts = [
    owner.kind === 'meshpath' ? 'Loaded by Meshpath' : null,
    processes === '' ? null : `Held by ${processes}`,
    owner.pins.length === 0 ? null : `Pinned at ${owner.pins.join(', ')}`,
  ].filter((part) => part !== null);
  return parts.length === 0 ? 'Held by the kernel only' : parts.join('\n');
}

function ownedIcon(name: string, owner: ObjectOwner): RowIcon {
  return owner.kind === 'meshpath' ? { name, color: MESHPATH_COLOR } : { name };
}

function programRow(node: string, parent: string, program: ProgramInfo, contents: NodeContents, maps: ReadonlyMap<number, MapInfo>): TreeRow {
  const id = `${parent}/${program.id}`;
  const attached = (contents.links.ok ? contents.links.items : []).filter((link) => link.programId === program.id);
  const children = [
    ...attached.map(
      (link): TreeRow => ({
        id: `${id}/link/${link.id}`,
        kind: 'link',
        label: describeTarget(link.target, maps),
        description: `attached as ${link.attachType ?? link.type}`,
        icon: { name: 'link' },
        subject: { type: 'link', node, link },
      }),
    ),
    ...program.mapIds.flatMap((mapId): readonly TreeRow[] => {
      const map = maps.get(mapId);
      return map === undefined ? [] : [{ ...mapRow(node, `${id}/map`, map), description: `uses · ${map.type}` }];
    }),
  ];
  return {
    id,
    kind: 'program',
    label: program.name === '' ? '(no name)' : program.name,
    description: `${program.type} · id ${program.id}`,
    tooltip: [
      `${program.name}, ${program.type}, id ${program.id}, tag ${program.tag}`,
      `${count(program.instructionCount, 'instruction')}, ${program.jitedBytes} bytes jited`,
      program.runCount === '0' ? '' : `Ran ${program.runCount} times in ${program.runTimeNanoseconds} ns`,
      `Loaded ${program.loadedAt} by user ${program.loadedByUid}`,
      describeOwner(program.owner),
    ]
      .filter((line) => line !== '')
      .join('\n'),
    icon: ownedIcon('circuit-board', program.owner),
    subject: { type: 'program', node, program },
    ...(children.length > 0 ? { children } : {}),
  };
}

function mapRow(node: string, parent: string, map: MapInfo): TreeRow {
  return {
    id: `${parent}/${map.id}`,
    kind: map.readable.ok ? 'map.readable' : 'map.opaque',
    label: map.name === '' ? '(no name)' : map.name,
    description: `${map.type} · id ${map.id}`,
    tooltip: [
      `${map.name}, ${map.type}, id ${map.id}`,
      `Key: ${map.keyType ?? 'no BTF'}, ${count(map.keyBytes, 'byte')}`,
      `Value: ${map.valueType ?? 'no BTF'}, ${count(map.valueBytes, 'byte')}`,
      `At most ${count(map.maxEntries, 'entry', 'entries')}${map.flags.length > 0 ? `, ${map.flags.join(', ')}` : ''}${map.frozen ? ', frozen' : ''}`,
      map.readable.ok ? '' : `Its entries cannot be read: ${map.readable.reason}`,
      describeOwner(map.owner),
    ]
      .filter((line) => line !== '')
      .join('\n'),
    icon: map.readable.ok ? ownedIcon('table', map.owner) : { name: 'lock' },
    subject: { type: 'map', node, map },
    ...(map.readable.ok ? { command: COMMANDS.openMap } : {}),
  };
}

/** Gives the last part of a path, `/` for the root. */
export function lastSegment(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1) || '/';
}

function parentPath(path: string): string {
  return path.slice(0, Math.max(path.lastIndexOf('/'), 1));
}

function cgroupRows(
  node: string,
  parent: string,
  cgroups: readonly CgroupInfo[],
  accelerated: ReadonlySet<string>,
  shown: ReadonlyMap<string, number>,
): readonly TreeRow[] {
  const byPath = new Map(cgroups.map((cgroup) => [cgroup.path as string, cgroup]));
  const below = new Map<string, CgroupInfo[]>();
  const roots: CgroupInfo[] = [];
  for (const cgroup of cgroups) {
    const above = parentPath(cgroup.path);
    if (cgroup.path === '/' || !byPath.has(above)) {
      roots.push(cgroup);
    } else {
      const siblings = below.get(above);
      if (siblings === undefined) {
        below.set(above, [cgroup]);
      } else {
        siblings.push(cgroup);
      }
    }
  }
  const toRow = (cgroup: CgroupInfo): TreeRow => {
    const id = `${parent}${cgroup.path}`;
    const isAccelerated = accelerated.has(cgroup.path);
    const children = [
      ...attachmentRows(node, id, cgroup),
      ...limitRows((below.get(cgroup.path) ?? []).map(toRow), id, node, shown),
    ];
    const notes = [
      ...(isAccelerated ? ['accelerated'] : []),
      ...(cgroup.attachments.length > 0 ? [count(cgroup.attachments.length, 'program')] : []),
      ...(cgroup.processCount > 0 ? [count(cgroup.processCount, 'process', 'processes')] : []),
    ];
    return {
      id,
      kind: isAccelerated ? 'cgroup.accelerated' : 'cgroup',
      label: lastSegment(cgroup.path),
      description: notes.join(' · '),
      tooltip: `${cgroup.path}\nId ${cgroup.id}, ${count(cgroup.processCount, 'process', 'processes')}\n${count(cgroup.attachments.length, 'program')} in effect`,
      icon: { name: 'folder', ...(isAccelerated ? { color: MESHPATH_COLOR } : {}) },
      subject: { type: 'cgroup', node, path: cgroup.path },
      ...(children.length > 0 ? { children } : {}),
      ...(cgroup.path === '/' ? { expanded: true } : {}),
    };
  };
  return roots.map(toRow);
}

function attachmentRows(node: string, parent: string, cgroup: CgroupInfo): readonly TreeRow[] {
  const sorted = [...cgroup.attachments].sort((left, right) => left.attachType.localeCompare(right.attachType) || left.order - right.order);
  return sorted.map((attachment) => ({
    id: `${parent}/attached/${attachment.attachType}/${attachment.order}/${attachment.programId}`,
    kind: 'detail',
    label: `${attachment.order + 1}. ${attachment.programName === '' ? `program ${attachment.programId}` : attachment.programName}`,
    description: `${attachment.attachType}${attachment.attachedTo === cgroup.path ? '' : ` · inherited from ${attachment.attachedTo}`}`,
    tooltip: describeAttachment(attachment),
    icon: { name: 'circuit-board' },
    subject: { type: 'text', node },
  }));
}

function describeAttachment(attachment: CgroupAttachment): string {
  return [
    `${attachment.programName}, program ${attachment.programId}, runs as number ${attachment.order + 1} of ${attachment.attachType}`,
    `Attached to ${attachment.attachedTo} (${attachment.mode})`,
    attachment.linkId === null ? 'Attached without a link (BPF_PROG_ATTACH)' : `Held by link ${attachment.linkId}`,
  ].join('\n');
}

function describeTarget(target: AttachTarget, maps: ReadonlyMap<number, MapInfo>): string {
  switch (target.kind) {
    case 'cgroup':
      return target.path ?? `cgroup ${target.cgroupId}`;
    case 'map':
      return maps.get(target.mapId)?.name ?? `map ${target.mapId}`;
    case 'namespace':
      return `network namespace ${target.namespace}`;
    case 'device':
      return target.name ?? `interface ${target.interfaceIndex}`;
    case 'other':
      return target.text;
  }
}

function linkRow(node: string, parent: string, link: LinkInfo, programs: ReadonlyMap<ProgramId, ProgramInfo>, maps: ReadonlyMap<number, MapInfo>): TreeRow {
  const program = programs.get(link.programId)?.name ?? `program ${link.programId}`;
  const target = describeTarget(link.target, maps);
  return {
    id: `${parent}/${link.id}`,
    kind: 'link',
    label: program,
    description: `→ ${link.target.kind === 'cgroup' ? lastSegment(target) : target} · ${link.attachType ?? link.type}`,
    tooltip: `Link ${link.id} (${link.type}): ${program} on ${target}${link.attachType === null ? '' : ` as ${link.attachType}`}\n${describeOwner(link.owner)}`,
    icon: ownedIcon('link', link.owner),
    subject: { type: 'link', node, link },
  };
}
