import { hostname } from 'node:os';
import { createJsonLog } from '../../agent/logger.ts';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { METHOD_NAMES } from '../../agent/protocol/methods.ts';
import type { NodeHandlers, NodeService, Notify } from '../../agent/protocol/node.ts';
import { serve } from '../../agent/server.ts';

declare const PROTOCOL: number;
declare const MARKER: string;

/** Describes itself, never answers takeSnapshot, and says `changed` once countDecisions is asked. */
function createSampleService(notify: Notify): NodeService {
  const unknown = async (): Promise<never> =>
    Promise.reject(new MeshpathError({ code: 'NOT_SUPPORTED', message: 'Not here.', reason: 'A sample.', remedy: 'None.' }));
  const handlers: Partial<NodeHandlers> = {
    initialize: async () =>
      Promise.resolve({
        protocolVersion: PROTOCOL,
        agentVersion: MARKER,
        identity: { hostname: hostname(), kernelRelease: '6.18.0', machine: String(process.pid), kind: 'linux' },
        uid: process.getuid?.() ?? null,
        abilities: [],
      }),
    listMaps: async () => Promise.resolve([]),
    takeSnapshot: async () => new Promise<never>(() => undefined),
    countDecisions: async () => {
      notify('changed', {});
      return unknown();
    },
  };
  const all = Object.fromEntries(METHOD_NAMES.map((name) => [name, handlers[name] ?? unknown]));
  return { handlers: all as unknown as NodeHandlers, dispose: async () => Promise.resolve() };
}

runSampleAgent();

function runSampleAgent(): void {
  void serve(process.stdin, process.stdout, createSampleService, { log: createJsonLog(process.stderr) }).then(() => {
    process.exit(0);
  });
}
