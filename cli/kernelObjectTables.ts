import type { AttachTarget, CgroupInfo, LinkInfo, MapInfo, ObjectOwner, ProgramInfo } from '../agent/protocol/kernelObjects.ts';
import { formatTable } from './text/table.ts';
import type { TableOptions } from './text/table.ts';

/** Gives programs as a table, in the order given. */
export function formatPrograms(programs: readonly ProgramInfo[], options: TableOptions): string[] {
  return formatTable(
    [
      { title: 'ID', align: 'right' },
      { title: 'NAME' },
      { title: 'TYPE' },
      { title: 'INSTRUCTIONS', align: 'right' },
      { title: 'RUNS', align: 'right' },
      { title: 'MAPS' },
      { title: 'LOADED' },
      { title: 'OWNER' },
    ],
    programs.map((program) => [
      String(program.id),
      program.name,
      program.type,
      String(program.instructionCount),
      program.runCount,
      program.mapIds.join(' '),
      program.loadedAt,
      formatOwner(program.owner),
    ]),
    options,
  );
}

/** Gives maps as a table, in the order given. */
export function formatMaps(maps: readonly MapInfo[], options: TableOptions): string[] {
  return formatTable(
    [
      { title: 'ID', align: 'right' },
      { title: 'NAME' },
      { title: 'TYPE' },
      { title: 'KEY' },
      { title: 'VALUE' },
      { title: 'MAX ENTRIES', align: 'right' },
      { title: 'MEMORY', align: 'right' },
      { title: 'OWNER' },
    ],
    maps.map((map) => [
      String(map.id),
      map.name,
      map.type,
      formatType(map.keyType, map.keyBytes),
      formatType(map.valueType, map.valueBytes),
      String(map.maxEntries),
      map.memoryBytes === null ? '' : formatByteCount(map.memoryBytes),
      formatOwner(map.owner),
    ]),
    options,
  );
}

/** Gives links as a table; programs are named where they are known. */
export function formatLinks(links: readonly LinkInfo[], programs: readonly ProgramInfo[], options: TableOptions): string[] {
  const names = new Map(programs.map((program) => [program.id, program.name]));
  return formatTable(
    [{ title: 'ID', align: 'right' }, { title: 'TYPE' }, { title: 'ATTACH TYPE' }, { title: 'PROGRAM' }, { title: 'TARGET' }, { title: 'OWNER' }],
    links.map((link) => [
      String(link.id),
      link.type,
      link.attachType ?? '',
      `${names.get(link.programId) ?? ''} (${link.programId})`.trimStart(),
      formatTarget(link.target),
      formatOwner(link.owner),
    ]),
    options,
  );
}

/** Gives cgroups as a table: a line for each program that runs for one, in effective order, and one for each with none. */
export function formatCgroups(cgroups: readonly CgroupInfo[], options: TableOptions): string[] {
  const rows = cgroups.flatMap((cgroup) => {
    const head = [cgroup.path, cgroup.id, String(cgroup.processCount)];
    if (cgroup.attachments.length === 0) {
      return [[...head, '', '', '', '']];
    }
    return cgroup.attachments.map((attachment, index) => [
      ...(index === 0 ? head : ['', '', '']),
      attachment.attachType,
      `${attachment.programName} (${attachment.programId})`,
      attachment.mode,
      attachment.attachedTo === cgroup.path ? 'here' : attachment.attachedTo,
    ]);
  });
  return formatTable(
    [
      { title: 'CGROUP' },
      { title: 'ID', align: 'right' },
      { title: 'PROCESSES', align: 'right' },
      { title: 'ATTACH TYPE' },
      { title: 'PROGRAM' },
      { title: 'MODE' },
      { title: 'ATTACHED TO' },
    ],
    rows,
    options,
  );
}

/** Gives a number of bytes in the largest binary unit that leaves at least 1. */
function formatByteCount(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  const power = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log2(bytes) / 10));
  const amount = bytes / 1024 ** power;
  return `${Number.isInteger(amount) ? amount : amount.toFixed(1)} ${units[power] ?? 'B'}`;
}

function formatType(name: string | null, bytes: number): string {
  return name ?? (bytes === 0 ? 'none' : formatByteCount(bytes));
}

function formatOwner(owner: ObjectOwner): string {
  const processes = owner.processes.map(({ pid, command }) => `${command} (${pid})`);
  const held = [...processes, ...owner.pins].join(', ');
  switch (owner.kind) {
    case 'meshpath':
      return held === '' ? 'meshpath (no process)' : `meshpath: ${held}`;
    case 'kernel':
      return held === '' ? 'kernel' : held;
    case 'process':
    case 'pinned':
      return held;
  }
}

function formatTarget(target: AttachTarget): string {
  switch (target.kind) {
    case 'cgroup':
      return `cgroup ${target.path ?? target.cgroupId}`;
    case 'map':
      return `map ${target.mapId}`;
    case 'namespace':
      return `network namespace ${target.namespace}`;
    case 'device':
      return `device ${target.name ?? target.interfaceIndex}`;
    case 'other':
      return target.text;
  }
}
