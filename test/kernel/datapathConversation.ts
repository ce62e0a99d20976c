import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createAccelerator } from '../../agent/accelerate/accelerator.ts';
import type { Accelerator } from '../../agent/accelerate/accelerator.ts';
import type { AccelerationInfo, DecisionEvent, TurnOffReport } from '../../agent/protocol/acceleration.ts';
import type { CgroupPath, Endpoint } from '../../agent/protocol/scalars.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import type { LabConnection } from '../../agent/lab/client.ts';
import type { Lab } from '../lab/lab.ts';
import type { LabPod } from '../../agent/lab/pod.ts';
import type { ProxiedConnection } from '../../agent/lab/programs/reports.ts';

export const CONTEXT = { signal: new AbortController().signal };
export const KIBIBYTE = 1024;

/** An accelerator with the events that it told of. */
export interface Observed {
  readonly accelerator: Accelerator;
  readonly events: DecisionEvent[];
  /** Of all programs that were loaded. */
  readonly programIds: number[];
}

export function observe(options: { readonly unreadLimit?: bigint } = {}): Observed {
  const events: DecisionEvent[] = [];
  const accelerator = createAccelerator({
    object: readFileSync(prebuiltObject),
    notify: (name, value) => {
      if (name === 'decisions' && 'events' in value) {
        events.push(...value.events);
      }
    },
    ...options,
  });
  return { accelerator, events, programIds: [] };
}

export async function turnOn({ accelerator, programIds }: Observed, ...pods: readonly LabPod[]): Promise<AccelerationInfo> {
  const info = await accelerator.turnAccelerationOn({ profile: 'istio', pods: pods.map(({ enrolment }) => enrolment) }, CONTEXT);
  programIds.push(...info.programIds);
  return info;
}

export async function turnOff({ accelerator }: Observed, cgroups: readonly CgroupPath[] | null = null): Promise<TurnOffReport> {
  return accelerator.turnAccelerationOff({ cgroups }, CONTEXT);
}

export async function count({ accelerator }: Observed): Promise<Record<string, number>> {
  const counters = await accelerator.countDecisions({ profile: 'istio' }, CONTEXT);
  return Object.fromEntries(Object.entries(counters).map(([reason, value]) => [reason, Number(value)]));
}

/** What both sides of the legs of one connection saw, without ports that the kernel chose. */
export interface Sight {
  readonly clientAddress: string;
  readonly clientPeer: Endpoint;
  readonly outbound: unknown;
  readonly inbound: unknown;
  readonly serverPeer: string;
  readonly serverLocal: Endpoint;
}

/** A conversation from pod 0 to a server in pod 1 through both sidecars. */
export class Conversation {
  readonly lab: Lab;
  readonly parts: Awaited<ReturnType<typeof startParts>>;

  private constructor(lab: Lab, parts: Awaited<ReturnType<typeof startParts>>) {
    this.lab = lab;
    this.parts = parts;
  }

  static async start(lab: Lab, serverAddress?: string): Promise<Conversation> {
    return new Conversation(lab, await startParts(lab, serverAddress));
  }

  get destination(): { readonly address: string; readonly port: number } {
    return { address: this.lab.pod(1).address, port: this.parts.server.port };
  }

  async connect(seed?: number): Promise<LabConnection> {
    return this.parts.client.connect({ ...this.destination, ...(seed === undefined ? {} : { seed }) });
  }

  /** Opens a connection, uses it, closes it and tells what everybody saw of it. */
  async look(): Promise<Sight> {
    const { outbound, inbound, server } = this.parts;
    const seen = [outbound.accepted.all.length, inbound.accepted.all.length, server.accepted.all.length, server.ended.all.length] as const;
    const connection = await this.connect();
    const received = await connection.exchange(64 * KIBIBYTE);
    assert.ok(received.exact && received.bytes === 64 * KIBIBYTE);
    const { local, peer } = await connection.describe();
    await connection.close();
    await server.ended.waitForCount(seen[3] + 1);
    const accepted = server.accepted.all[seen[2]];
    assert.ok(accepted !== undefined);
    return {
      clientAddress: local.address,
      clientPeer: peer,
      outbound: sightOf(outbound.accepted.all.slice(seen[0])),
      inbound: sightOf(inbound.accepted.all.slice(seen[1])),
      serverPeer: accepted.peer.address,
      serverLocal: accepted.local,
    };
  }
}

async function startParts(lab: Lab, serverAddress?: string): Promise<{
  readonly client: Awaited<ReturnType<LabPod['startClient']>>;
  readonly server: Awaited<ReturnType<LabPod['startServer']>>;
  readonly outbound: Awaited<ReturnType<LabPod['startProxy']>>;
  readonly inbound: Awaited<ReturnType<LabPod['startProxy']>>;
}> {
  const [client, server, outbound, inbound] = await Promise.all([
    lab.pod(0).startClient(),
    lab.pod(1).startServer(serverAddress === undefined ? {} : { address: serverAddress }),
    lab.pod(0).startProxy(),
    lab.pod(1).startProxy(),
  ]);
  return { client, server, outbound, inbound };
}

export function sightOf(connections: readonly ProxiedConnection[]): unknown {
  return connections.map(({ listener, peer, local, originalDestination, originalDestinationError }) => ({
    listener,
    peer: peer.address,
    local,
    originalDestination,
    originalDestinationError,
  }));
}
