import { findLabLeftovers, removeLab } from '../lab/removeLab.ts';
import type { LabRemains } from '../lab/removeLab.ts';
import type { Leftover } from '../protocol/clean.ts';
import { toMeshpathError } from '../protocol/errors.ts';

/** Finds, and removes unless `isDryRun`, what labs left that no living process has and that are not up on purpose. */
export async function cleanLabs(isDryRun: boolean): Promise<readonly Leftover[]> {
  const items: Leftover[] = [];
  for (const lab of await findLabLeftovers()) {
    const item = { kind: 'lab', where: lab.name, what: describeRemains(lab) } as const;
    try {
      if (!isDryRun) {
        await removeLab(lab.name);
      }
      items.push({ ...item, isRemoved: !isDryRun, problem: null });
    } catch (error) {
      items.push({ ...item, isRemoved: false, problem: toMeshpathError(error).toJSON() });
    }
  }
  return items;
}

function describeRemains({ namespaces, cgroupFolder, processes }: LabRemains): string {
  const cgroup = cgroupFolder === null ? 'no cgroup' : `the cgroup ${cgroupFolder}`;
  return `What a lab left that nobody has any more: ${namespaces.length} network namespaces, ${cgroup}, ${processes.length} processes.`;
}
