import { existsSync, readFileSync } from 'node:fs';
import { hostname, machine, release } from 'node:os';
import { dirname, join } from 'node:path';

import { createAccelerator, DEFAULT_UNREAD_LIMIT } from './accelerate/accelerator.ts';
import type { Accelerator } from './accelerate/accelerator.ts';
import { KEPT_FOLDER } from './accelerate/keptFolder.ts';
import { cleanCachedAgents } from './clean/cachedAgents.ts';
import { cleanLabs } from './clean/labLeftovers.ts';
import { cleanSelfTestResults } from './clean/selfTestResults.ts';
import { createConnectionLister } from './connections/connectionLister.ts';
import { createAccelerationGate, toReport } from './doctor/accelerationGate.ts';
import { runDoctor } from './doctor/runDoctor.ts';
import { describeAbilities } from './kernel/capabilities.ts';
import { findCgroup2Mount } from './kernel/cgroup2Mount.ts';
import { createKernelObjectReader } from './kernel/kernelObjectReader.ts';
import type { KernelObjectReader } from './kernel/kernelObjectReader.ts';
import { createLabManager } from './lab/labManager.ts';
import { createIntrospection } from './libbpf/introspection.ts';
import { openLibbpf } from './libbpf/library.ts';
import type { DecisionEvents } from './protocol/acceleration.ts';
import { passGate } from './protocol/doctorChecks.ts';
import { cancelledError, MeshpathError } from './protocol/errors.ts';
import { PROTOCOL_VERSION } from './protocol/methods.ts';
import type { Notifications } from './protocol/methods.ts';
import type { NodeHandlers, NodeService, Notify } from './protocol/node.ts';
import type { NodeIdentity } from './protocol/snapshot.ts';
import { listPods, takeSnapshot } from './snapshot/takeSnapshot.ts';

export interface AgentOptions {
  /** Where the compiled datapath is: meshpath.bpf.o. It is read when it is first needed. What runs in the pods of labs, lab.cjs, is beside it. */
  readonly objectPath: string;
  /** The version of Meshpath, for the person who looks at the node. */
  readonly agentVersion: string;
  /** Where what is kept is pinned; KEPT_FOLDER where it is left out. */
  readonly keptFolder?: string;
}

/**
 * Gives the agent as a service: for `serve` behind a pipe, or for connectInProcess in the same process. Nothing is opened before it is
 * needed, so that a node without libbpf or privileges still answers what it can; all else rejects with a MeshpathError.
 */
export function createAgentService(options: AgentOptions): (notify: Notify) => NodeService {
  return (notify) => {
    const identity: NodeIdentity = { hostname: hostname(), kernelRelease: release(), machine: machine(), kind: 'linux' };
    const keptFolder = options.keptFolder ?? KEPT_FOLDER;
    const disposal = new AbortController();
    const reader = lazy<KernelObjectReader>(() => createKernelObjectReader(openLibbpf(), () => findCgroup2Mount()));
    let accelerator: Accelerator | undefined;
    const decisionListeners = new Set<(decisions: DecisionEvents) => void>();
    const noteAndNotify: Notify = (name, value) => {
      if (name === 'decisions') {
        const decisions = value as Notifications['decisions'];
        connections.note(decisions);
        decisionListeners.forEach((listener) => listener(decisions));
      }
      notify(name, value);
    };
    const gate = createAccelerationGate({
      kernelRelease: identity.kernelRelease,
      openLibbpf: () => openLibbpf().version,
      findCgroupMount: () => findCgroup2Mount(),
      agentVersion: options.agentVersion,
      objectPath: options.objectPath,
      readObject: () => readObject(options.objectPath),
      unreadLimit: DEFAULT_UNREAD_LIMIT,
    });
    const openAccelerator = (): Accelerator => {
      if (disposal.signal.aborted) {
        throw cancelledError('Acceleration');
      }
      accelerator ??= createAccelerator({
        object: readObject(options.objectPath),
        notify: noteAndNotify,
        keptFolder,
        passGate: async (request, signal) => passGate(await gate.check(signal), request),
      });
      return accelerator;
    };
    // Nothing can be on before the accelerator was first needed, but what was kept.
    const listAccelerations: NodeHandlers['listAccelerations'] = async (params, context) =>
      accelerator === undefined && (disposal.signal.aborted || !existsSync(keptFolder)) ? [] : openAccelerator().listAccelerations(params, context);

    const connections = createConnectionLister({ reader, accelerations: () => listAccelerations({}, { signal: disposal.signal }) });

    const turnAccelerationOn: NodeHandlers['turnAccelerationOn'] = (params, context) =>
      connections.turnOn(() => openAccelerator().turnAccelerationOn(params, context), context.signal);

    const labs = createLabManager({
      programPath: join(dirname(options.objectPath), 'lab.cjs'),
      notify: (progress) => notify('labProgress', progress),
      listAccelerations: () => listAccelerations({}, { signal: disposal.signal }),
      turnAccelerationOn: (request, signal) => turnAccelerationOn(request, { signal }),
      turnAccelerationOff: async (cgroups) => {
        await openAccelerator().turnAccelerationOff({ cgroups }, { signal: disposal.signal });
      },
      listConnections: (signal) => connections.list('accelerated-pods', signal),
      listenDecisions: (listener) => {
        decisionListeners.add(listener);
        return () => decisionListeners.delete(listener);
      },
    });

    const handlers: NodeHandlers = {
      initialize: async ({ protocolVersion }) => {
        if (protocolVersion !== PROTOCOL_VERSION) {
          throw versionError(protocolVersion);
        }
        return Promise.resolve({
          protocolVersion: PROTOCOL_VERSION,
          agentVersion: options.agentVersion,
          identity,
          uid: process.getuid?.() ?? null,
          abilities: describeAbilities({
            kernelRelease: identity.kernelRelease,
            openLibbpf,
            findCgroupMount: findCgroup2Mount,
            listProgramIds: () => createIntrospection(openLibbpf()).listIds('program'),
          }),
        });
      },
      listPrograms: async (_params, { signal }) => reader().listPrograms(signal),
      listMaps: async (_params, { signal }) => reader().listMaps(signal),
      listLinks: async (_params, { signal }) => reader().listLinks(signal),
      listCgroups: async ({ below }, { signal }) => reader().listCgroups(below, signal),
      listPods: async (_params, { signal }) => listPods(signal),
      readMap: async (params, { signal }) => reader().readMap(params, signal),
      takeSnapshot: async (_params, context) =>
        takeSnapshot({ identity, reader, accelerations: () => listAccelerations({}, context) }, context.signal),
      runDoctor: async (_params, { signal }) =>
        runDoctor({ reader, checkAcceleration: gate.checkAnew }, signal),
      checkAcceleration: async (_params, { signal }) => toReport(await gate.check(signal)),
      turnAccelerationOn: async (params, context) => turnAccelerationOn(params, context),
      turnAccelerationOff: async (params, context) => openAccelerator().turnAccelerationOff(params, context),
      cleanNode: async ({ isDryRun }, context) => {
        const kept = existsSync(keptFolder) ? await openAccelerator().clean({ isDryRun }, context) : { items: [] };
        return { items: [...kept.items, ...(await cleanLabs(isDryRun)), ...(await cleanCachedAgents(dirname(options.objectPath), isDryRun)), ...(await cleanSelfTestResults(isDryRun))] };
      },
      upgradeAcceleration: async (params, context) => openAccelerator().upgradeAcceleration(params, context),
      listAccelerations,
      countDecisions: async (params, context) => openAccelerator().countDecisions(params, context),
      listConnections: async ({ scope }, { signal }) => connections.list(scope, signal),
      bringLabUp: async (request, { signal }) => {
        const lab = await labs.bringUp(request, signal);
        notify('changed', {});
        return lab;
      },
      listLabs: async () => labs.list(),
      runInLab: async (request, { signal }) => labs.run(request, signal),
      takeLabDown: async ({ name }) => {
        await labs.takeDown(name);
        notify('changed', {});
        return {};
      },
    };
    return {
      handlers,
      dispose: async () => {
        disposal.abort();
        await accelerator?.dispose();
      },
    };
  };
}

function lazy<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

function readObject(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'BPF_OBJECT_INVALID',
        message: 'The compiled programs of Meshpath are missing.',
        reason: error instanceof Error ? error.message : String(error),
        remedy: 'Install Meshpath again, or build it with `npm run build` where you work on it.',
      },
      { cause: error },
    );
  }
}

function versionError(theirs: number): MeshpathError {
  return new MeshpathError({
    code: 'AGENT_PROTOCOL_MISMATCH',
    message: 'The agent on the node and Meshpath speak different versions of the protocol.',
    reason: `Meshpath speaks version ${theirs}, the agent speaks version ${PROTOCOL_VERSION}.`,
    remedy: 'Connect again, so that Meshpath installs the agent that came with it.',
  });
}
