import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { createAccelerator } from '../../agent/accelerate/accelerator.ts';
import type { Accelerator } from '../../agent/accelerate/accelerator.ts';
import { findCgroup2Mount } from '../../agent/kernel/cgroup2Mount.ts';
import { createKernelObjectReader } from '../../agent/kernel/kernelObjectReader.ts';
import { openLibbpf } from '../../agent/libbpf/library.ts';
import type { AccelerationInfo, DecisionEvent } from '../../agent/protocol/acceleration.ts';
import type { MapEntry } from '../../agent/protocol/mapEntries.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';
import type { Lab } from '../lab/lab.ts';
import type { LabPod } from '../../agent/lab/pod.ts';

const CONTEXT = { signal: new AbortController().signal };
/** Maps whose entries belong to open connections. */
const CONNECTION_MAPS = ['connections', 'sockets', 'handshakes'] as const;
const EMPTY_DEADLINE_MILLISECONDS = 10_000;
const MAX_ENTRIES = 1_000;

export interface LabAccelerationOptions {
  readonly unreadLimit?: bigint;
  /** Whether the events of decisions are kept, for short runs. */
  readonly keepsEvents?: boolean;
  /** Where what is kept is pinned; nothing is kept where it is left out. */
  readonly keptFolder?: string;
}

/** Acceleration of all pods of a lab, on and off, with the sums of what was decided since it was made. */
export class LabAcceleration {
  readonly #lab: Lab;
  readonly #options: LabAccelerationOptions;
  #accelerator: Accelerator;
  #versions = 0;
  /** The last counts of each set of programs, by the id of its first program. */
  readonly #decisions = new Map<string, ReadonlyMap<string, number>>();
  readonly #events: DecisionEvent[] = [];
  readonly #programIds: number[] = [];
  #info: AccelerationInfo | null = null;

  constructor(lab: Lab, options: LabAccelerationOptions = {}) {
    this.#lab = lab;
    this.#options = options;
    this.#accelerator = this.#createAccelerator();
  }

  get events(): readonly DecisionEvent[] {
    return this.#events;
  }

  /** Of all programs that were ever loaded for it. */
  get programIds(): readonly number[] {
    return this.#programIds;
  }

  get isOn(): boolean {
    return this.#info !== null;
  }

  async turnOn(): Promise<void> {
    const keep = this.#options.keptFolder === undefined ? {} : { keep: true };
    this.#setInfo(await this.#accelerator.turnAccelerationOn({ profile: 'istio', pods: this.#lab.pods.map(({ enrolment }) => enrolment), ...keep }, CONTEXT));
  }

  /** Ends this agent; calls `meanwhile`; then another agent takes over what is kept. */
  async handOver(meanwhile: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    await this.countDecisions();
    await this.#accelerator.dispose();
    await meanwhile();
    this.#accelerator = this.#createAccelerator();
    const info = (await this.#accelerator.listAccelerations({}, CONTEXT)).find(({ pods }) => pods.length > 0);
    if (info === undefined) {
      throw new Error('nothing was kept');
    }
    this.#setInfo(info);
  }

  /** Hands over to an agent of another version, which exchanges the programs. */
  async upgrade(): Promise<void> {
    this.#versions += 1;
    await this.handOver();
    this.#setInfo(await this.#accelerator.upgradeAcceleration({ profile: 'istio' }, CONTEXT));
  }

  #setInfo(info: AccelerationInfo): void {
    this.#info = info;
    this.#programIds.push(...info.programIds);
  }

  #createAccelerator(): Accelerator {
    const { keepsEvents = false, keptFolder, unreadLimit } = this.#options;
    return createAccelerator({
      // What comes behind the sections of an ELF file changes nothing but its hash.
      object: Buffer.concat([readFileSync(prebuiltObject), Buffer.alloc(this.#versions)]),
      notify: (name, value) => {
        if (keepsEvents && name === 'decisions' && 'events' in value) {
          this.#events.push(...value.events);
        }
      },
      ...(keepsEvents ? { eventLimit: 0 } : {}),
      ...(keptFolder === undefined ? {} : { keptFolder }),
      ...(unreadLimit === undefined ? {} : { unreadLimit }),
    });
  }

  async turnOff(): Promise<void> {
    await this.countDecisions();
    await this.#accelerator.turnAccelerationOff({ cgroups: null }, CONTEXT);
    this.#info = null;
  }

  /** Turns it off for one pod; it stays on for the others. */
  async turnOffFor(pod: LabPod): Promise<void> {
    await this.#accelerator.turnAccelerationOff({ cgroups: [pod.cgroup] }, CONTEXT);
  }

  /** Gives how often each decision was made while it was on. Programs count on where they are taken back. */
  async countDecisions(): Promise<ReadonlyMap<string, number>> {
    if (this.#info !== null) {
      const counters = await this.#accelerator.countDecisions({ profile: 'istio' }, CONTEXT);
      this.#decisions.set(
        String(this.#info.programIds[0]),
        new Map(Object.entries(counters).map(([reason, value]) => [reason, Number(value)])),
      );
    }
    const sums = new Map<string, number>();
    for (const [reason, value] of [...this.#decisions.values()].flatMap((counts) => [...counts])) {
      sums.set(reason, (sums.get(reason) ?? 0) + value);
    }
    return sums;
  }

  /** Gives the first entries of a map while it is on. */
  async readEntries(name: string): Promise<readonly MapEntry[]> {
    const reader = createKernelObjectReader(openLibbpf(), findCgroup2Mount);
    const map = (await reader.listMaps(CONTEXT.signal)).find((candidate) => candidate.name === name && this.#info?.mapIds.includes(candidate.id) === true);
    if (map === undefined) {
      throw new Error(`there is no map ${name}`);
    }
    return (await reader.readMap({ mapId: map.id, cursor: null, limit: MAX_ENTRIES }, CONTEXT.signal)).entries;
  }

  /** Resolves with what maps still keep of connections that are closed: `connections: 3`; none where all is well. */
  async findKeptEntries(): Promise<readonly string[]> {
    const deadline = performance.now() + EMPTY_DEADLINE_MILLISECONDS;
    for (;;) {
      const kept: string[] = [];
      for (const name of CONNECTION_MAPS) {
        const entries = await this.readEntries(name);
        if (entries.length > 0) {
          kept.push(`${name}: ${entries.length}, such as ${JSON.stringify(entries[0])}`);
        }
      }
      if (kept.length === 0 || performance.now() > deadline) {
        return kept;
      }
      await delay(50);
    }
  }

  async dispose(): Promise<void> {
    await this.#accelerator.dispose();
  }
}
