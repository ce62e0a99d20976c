import { execFileSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MAX_PAGE_ENTRIES } from '../../agent/protocol/mapEntries.ts';
import { PROTOCOL_VERSION } from '../../agent/protocol/methods.ts';
import { dist } from '../../scripts/paths.mjs';
import { connectAgent } from '../../extension/node/agentClient.ts';
import { createLocalTransport } from '../../extension/node/localTransport.ts';
import { findCommand, missingForKernel } from '../requirements.ts';
import type { Bench, Sample } from './bench.ts';

const mapName = 'bench_pages';
const entries = 20_000;

/** Reads all entries of a map page by page through the built agent, and the same map with bpftool, in milliseconds. */
async function measureReading(): Promise<Sample> {
  const pin = `/sys/fs/bpf/meshpath-bench-pages-${process.pid}`;
  const transport = createLocalTransport();
  try {
    bpftool(['map', 'create', pin, 'type', 'hash', 'key', '4', 'value', '16', 'entries', String(entries), 'name', mapName]);
    const updates = Array.from({ length: entries }, (_, key) => `map update pinned ${pin} key ${bytes(key, 4)} value ${bytes(key, 16)}`);
    execFileSync(findCommand('bpftool') ?? 'bpftool', ['batch', 'file', '-'], { input: `${updates.join('\n')}\n` });

    const agent = await transport.start(`exec ${process.execPath} ${join(dist, 'agent/agent.cjs')}`);
    const { node } = await connectAgent(agent, { client: 'meshpath-bench', signal: new AbortController().signal, startTimeoutMs: 20_000, log: () => undefined });
    const map = (await node.call('listMaps', {})).find(({ name }) => name === mapName);
    if (map === undefined) {
      throw new Error(`the agent (protocol ${PROTOCOL_VERSION}) does not list the map ${mapName}`);
    }
    const started = performance.now();
    let count = 0;
    let cursor: string | null = null;
    do {
      const page: { readonly entries: readonly unknown[]; readonly nextCursor: string | null } = await node.call('readMap', { mapId: map.id, cursor, limit: MAX_PAGE_ENTRIES });
      count += page.entries.length;
      cursor = page.nextCursor;
    } while (cursor !== null);
    const value = performance.now() - started;
    if (count !== entries) {
      throw new Error(`the agent gave ${count} of ${entries} entries`);
    }
    const dumpStarted = performance.now();
    bpftool(['-j', 'map', 'dump', 'pinned', pin]);
    const baseline = performance.now() - dumpStarted;
    await node.close();
    return { value, baseline };
  } finally {
    await transport.close();
    rmSync(pin, { force: true });
  }
}

function bytes(value: number, length: number): string {
  return Array.from({ length }, (_, index) => (index < 4 ? (value >>> (8 * index)) & 0xff : 0)).join(' ');
}

function bpftool(parameters: readonly string[]): void {
  execFileSync(findCommand('bpftool') ?? 'bpftool', parameters, { maxBuffer: 1 << 30, stdio: ['ignore', 'pipe', 'inherit'] });
}

function missingForReading(): string | false {
  if (findCommand('bpftool') === undefined) {
    return 'needs bpftool';
  }
  return existsSync(join(dist, 'agent/agent.cjs')) ? missingForKernel() : 'needs dist/agent (npm run build)';
}

/** What reading and decoding a whole map costs through the agent. */
export const benches: readonly Bench[] = [
  { name: `all ${entries} entries of a map through the agent`, unit: 'ms', baseline: 'bpftool -j map dump', runs: 5, skip: missingForReading(), measure: measureReading },
];
