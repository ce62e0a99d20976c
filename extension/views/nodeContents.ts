import type { AccelerationInfo, PodInfo } from '../../agent/protocol/acceleration.ts';
import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { toMeshpathError } from '../../agent/protocol/errors.ts';
import type { CgroupInfo, LinkInfo, MapInfo, ProgramInfo } from '../../agent/protocol/kernelObjects.ts';
import type { LabInfo } from '../../agent/protocol/lab.ts';
import type { Node } from '../../agent/protocol/node.ts';
import type { CgroupPath } from '../../agent/protocol/scalars.ts';

/** One list of a node: it, or why it could not be read. */
export type Listing<Item> = { readonly ok: true; readonly items: readonly Item[] } | { readonly ok: false; readonly error: MeshpathError };

/** Everything that the view shows of a node, as it was at one moment. */
export interface NodeContents {
  readonly accelerations: Listing<AccelerationInfo>;
  readonly programs: Listing<ProgramInfo>;
  readonly maps: Listing<MapInfo>;
  readonly cgroups: Listing<CgroupInfo>;
  readonly links: Listing<LinkInfo>;
  readonly pods: Listing<PodInfo>;
  readonly labs: Listing<LabInfo>;
}

async function settle<Item>(items: Promise<readonly Item[]>): Promise<Listing<Item>> {
  try {
    return { ok: true, items: await items };
  } catch (thrown) {
    return { ok: false, error: toMeshpathError(thrown) };
  }
}

/** Lists what is on the node. One list that cannot be read does not hide the others. */
export async function loadNodeContents(node: Node): Promise<NodeContents> {
  const [accelerations, programs, maps, cgroups, links, pods, labs] = await Promise.all([
    settle(node.call('listAccelerations', {})),
    settle(node.call('listPrograms', {})),
    settle(node.call('listMaps', {})),
    settle(node.call('listCgroups', { below: '/' as CgroupPath })),
    settle(node.call('listLinks', {})),
    settle(node.call('listPods', {})),
    settle(node.call('listLabs', {})),
  ]);
  return { accelerations, programs, maps, cgroups, links, pods, labs };
}

/** Gives the items of a listing, or throws its error. */
export function itemsOf<Item>(listing: Listing<Item>): readonly Item[] {
  if (!listing.ok) {
    throw listing.error;
  }
  return listing.items;
}
