import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { MapInfo } from '../../agent/protocol/kernelObjects.ts';
import { MAX_PAGE_ENTRIES } from '../../agent/protocol/mapEntries.ts';
import type { MapEntry, MapPage } from '../../agent/protocol/mapEntries.ts';
import type { Node } from '../../agent/protocol/node.ts';
import { EXIT_OK } from '../command.ts';
import type { Command } from '../command.ts';
import { parseCount } from '../commandLine.ts';
import { formatMaps } from '../kernelObjectTables.ts';
import { formatMapListing } from '../mapTable.ts';
import type { MapListing } from '../mapTable.ts';
import { writeJson, writeLines } from '../output.ts';
import { escapeText } from '../text/escape.ts';

const DEFAULT_LIMIT = 1_000;
const MAX_LIMIT = 10_000_000;

export const mapsCommand: Command = {
  name: 'maps',
  summary: 'List the BPF maps of the node, or show the entries of one.',
  usage: '[NAME|ID]',
  operands: { min: 0, max: 1 },
  description: [
    'Without an operand: lists all BPF maps of the node. With one: shows the entries of the map with this id, or of every map with this name, decoded by BTF.',
  ],
  options: {
    limit: { type: 'string', valueName: 'N', description: `Show at most N entries of a map (${DEFAULT_LIMIT}).` },
  },
  run: async ({ arguments: args, output, connect, stop }) => {
    const limit = parseCount('limit', args.text('limit') ?? String(DEFAULT_LIMIT), 1, MAX_LIMIT);
    const node = await connect();
    const maps = await node.call('listMaps', {}, { signal: stop });
    const wanted = args.operands[0];
    if (wanted === undefined) {
      if (args.flag('json')) {
        await writeJson(output, maps);
      } else {
        await writeLines(output, maps.length === 0 ? ['There are no BPF maps.'] : formatMaps(maps, output));
      }
      return EXIT_OK;
    }
    const listings: MapListing[] = [];
    for (const map of findMaps(maps, wanted)) {
      listings.push(await readEntries(node, map, limit, stop));
    }
    if (args.flag('json')) {
      await writeJson(output, listings);
    } else {
      await writeLines(output, listings.flatMap((listing, index) => [...(index === 0 ? [] : ['']), ...formatMapListing(listing, output)]));
    }
    return EXIT_OK;
  },
};

/** Gives the map with an id, else those with a name; throws a MeshpathError MAP_NOT_FOUND where there is none. */
function findMaps(maps: readonly MapInfo[], wanted: string): readonly MapInfo[] {
  const byId = maps.filter(({ id }) => String(id) === wanted);
  const found = byId.length > 0 ? byId : maps.filter(({ name }) => name === wanted);
  if (found.length === 0) {
    throw new MeshpathError({
      code: 'MAP_NOT_FOUND',
      message: `There is no map '${escapeText(wanted.slice(0, 60))}'.`,
      reason: maps.length === 0 ? 'The node has no BPF maps now.' : `None of the ${maps.length} maps of the node has this name or id.`,
      remedy: 'Run meshpath maps to see those that there are.',
    });
  }
  return found;
}

async function readEntries(node: Node, map: MapInfo, limit: number, signal: AbortSignal): Promise<MapListing> {
  const entries: MapEntry[] = [];
  let cursor: string | null = null;
  let changedDuringRead = false;
  do {
    const pageLimit = Math.min(MAX_PAGE_ENTRIES, limit - entries.length);
    const page: MapPage = await node.call('readMap', { mapId: map.id, cursor, limit: pageLimit }, { signal });
    entries.push(...page.entries);
    cursor = page.nextCursor;
    changedDuringRead ||= page.changedDuringRead;
  } while (cursor !== null && entries.length < limit);
  return { map, entries, truncated: cursor !== null, changedDuringRead };
}
