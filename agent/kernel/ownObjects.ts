import { DATAPATH_PROGRAMS, isDatapathBtf } from '../protocol/datapath.ts';
import type { RawProgram } from '../libbpf/introspection.ts';
import type { BtfObjects } from './btfObjects.ts';
import { fullProgramName } from './objectTypes.ts';

/** The ids of Meshpath's programs, and of the maps that they use, whichever process loaded them. */
export interface OwnObjects {
  readonly programIds: ReadonlySet<number>;
  readonly mapIds: ReadonlySet<number>;
}

const PROGRAM_NAMES: ReadonlySet<string> = new Set(Object.values(DATAPATH_PROGRAMS));

/** Finds Meshpath's own programs among those of the machine: by their full names, and by what their type information describes. */
export function findOwnObjects(programs: readonly RawProgram[], btfObjects: BtfObjects): OwnObjects {
  const own = programs.filter((program) => {
    const btf = btfObjects.get(program.btfId);
    return btf !== undefined && PROGRAM_NAMES.has(fullProgramName(program, btfObjects)) && isDatapathBtf(btf);
  });
  return { programIds: new Set(own.map(({ id }) => id)), mapIds: new Set(own.flatMap(({ mapIds }) => mapIds)) };
}
