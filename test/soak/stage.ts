import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { root } from '../../scripts/paths.mjs';
import { createLab } from '../lab/lab.ts';
import type { Lab } from '../lab/lab.ts';
import { waitForNothingLeft } from '../lab/leftovers.ts';
import { LabAcceleration } from './acceleration.ts';
import { Traffic } from './traffic.ts';
import type { TrafficOptions, TrafficResult } from './traffic.ts';

/** What connections go through. The place in the list plus one is the tag of their seeds. */
export const SOAK_MODES = [
  /** From the client to the server, without sidecars. */
  'direct',
  /** Through both sidecars, led there by Istio's rules. */
  'iptables',
  /** Through both sidecars, led there by the programs alone. */
  'ebpf',
  /** The same, with Istio's rules in place. */
  'ebpf-with-rules',
  /** Istio's rules, and acceleration turned on and off every 200 ms, for all pods or one by one. */
  'switched',
  /** Istio's rules, and acceleration turned on in the middle of each run, with few source ports: conntrack remembers most. */
  'switched-on-late',
  /** Istio's rules, and acceleration that is kept while agents take it over and are killed, one a second. */
  'kept',
  /** Istio's rules, and acceleration that is kept and whose programs are exchanged for those of another version every 200 ms. */
  'upgraded',
] as const;
export type SoakMode = (typeof SOAK_MODES)[number];

const SWITCH_MILLISECONDS = 200;
const AGENT = join(root, 'test/kernel/datapathAgent.ts');
/** Fewer than connections that conntrack remembers (120 s in TIME_WAIT). */
const FEW_PORTS = '40000 41999';

/** What a run came to, and what became of the maps. */
export interface StageResult extends TrafficResult {
  /** What maps kept of closed connections. */
  readonly keptEntries: readonly string[];
  /** How often acceleration was turned on. */
  readonly switchedOn: number;
  /** Connections of applications that the programs took, and messages that went from socket to socket. */
  readonly takenConnections: number;
  readonly redirectedMessages: number;
}

/** The pods of one mode with their programs, for any number of runs. */
export class Stage {
  readonly mode: SoakMode;
  readonly lab: Lab;
  readonly acceleration: LabAcceleration;
  readonly #traffic: Traffic;

  private constructor(mode: SoakMode, lab: Lab, traffic: Traffic) {
    this.mode = mode;
    this.lab = lab;
    this.acceleration = new LabAcceleration(lab, mode === 'kept' || mode === 'upgraded' ? { keptFolder: `/sys/fs/bpf/${lab.id}` } : {});
    this.#traffic = traffic;
  }

  /** Makes the pods; whoever has it disposes of it. */
  static async open(mode: SoakMode): Promise<Stage> {
    const lab = await createLab({ rules: mode === 'direct' || mode === 'ebpf' ? 'none' : 'istio' });
    try {
      if (mode === 'switched-on-late') {
        await Promise.all(lab.pods.map((pod) => pod.run('sysctl', ['-qw', `net.ipv4.ip_local_port_range=${FEW_PORTS}`, 'net.ipv4.tcp_tw_reuse=1'])));
      }
      return new Stage(mode, lab, await Traffic.start(lab, { hasSidecars: mode !== 'direct', tag: tagOf(mode) }));
    } catch (error) {
      await lab.dispose();
      throw error;
    }
  }

  /** Opens connections, with acceleration as the mode says; `seed`: the first one's, whose highest four bits are the mode's. */
  async run(options: Omit<TrafficOptions, 'firstSeed'> & { readonly seed: number }): Promise<StageResult> {
    const before = await this.acceleration.countDecisions();
    const ruledBefore = await this.#countRedirectedByRules();
    const run = { ...options, firstSeed: ((tagOf(this.mode) << 28) | (options.seed & 0x0fff_ffff)) >>> 0 };
    const { result, switchedOn } = await this.#runAccelerated(run);
    const usesAcceleration = this.mode !== 'direct' && this.mode !== 'iptables';
    if (usesAcceleration && !this.acceleration.isOn) {
      await this.acceleration.turnOn();
    }
    const keptEntries = usesAcceleration ? await this.acceleration.findKeptEntries() : [];
    if (this.acceleration.isOn) {
      await this.acceleration.turnOff();
    }
    const after = await this.acceleration.countDecisions();
    const count = (reason: string): number => (after.get(reason) ?? 0) - (before.get(reason) ?? 0);
    // Programs that are exchanged take connections between the last time that they are asked how many and their end.
    const isCountedByRules = this.mode === 'upgraded' || this.mode === 'iptables';
    const ruled = (await this.#countRedirectedByRules()) - ruledBefore;
    // A SYN that is sent again before its connection is confirmed meets the rules again.
    const takenConnections = isCountedByRules ? Math.max(0, result.connections - ruled) : count('redirected_to_outbound');
    return { ...result, keptEntries, switchedOn, takenConnections, redirectedMessages: count('message_redirected') };
  }

  /** Gives how many connections of applications the rules sent to the sidecars. */
  async #countRedirectedByRules(): Promise<number> {
    const rules = await Promise.all(this.lab.pods.map((pod) => pod.run('iptables-save', ['-c', '-t', 'nat'])));
    const counts = rules.join('\n').matchAll(new RegExp(`^\\[(\\d+):\\d+\\] .*-j REDIRECT --to-ports ${ISTIO_PROFILE.outboundPort}$`, 'gm'));
    return [...counts].reduce((sum, [, packets]) => sum + Number(packets), 0);
  }

  /** Ends it; rejects where anything is left on the machine. */
  async dispose(): Promise<void> {
    await this.acceleration.dispose();
    await this.#traffic.stop();
    await this.lab.dispose();
    await waitForNothingLeft({ labId: this.lab.id, programIds: this.acceleration.programIds });
  }

  async #runAccelerated(options: TrafficOptions): Promise<{ readonly result: TrafficResult; readonly switchedOn: number }> {
    switch (this.mode) {
      case 'direct':
      case 'iptables':
        return { result: await this.#traffic.run(options), switchedOn: 0 };
      case 'ebpf':
      case 'ebpf-with-rules':
        await this.acceleration.turnOn();
        return { result: await this.#traffic.run(options), switchedOn: 1 };
      case 'switched':
        return this.#runBeside(options, (signal) => this.#switch(signal));
      case 'kept':
        await this.acceleration.turnOn();
        return this.#runBeside(options, (signal) => this.#killAgents(signal));
      case 'upgraded':
        await this.acceleration.turnOn();
        return this.#runBeside(options, (signal) => this.#upgrade(signal));
      case 'switched-on-late':
        return this.#runSwitchedOnLate(options);
    }
  }

  /** Runs the traffic while `act` does something over and over; it gives how often. */
  async #runBeside(options: TrafficOptions, act: (signal: AbortSignal) => Promise<number>): Promise<{ readonly result: TrafficResult; readonly switchedOn: number }> {
    const ended = new AbortController();
    const switching = act(ended.signal);
    try {
      return { result: await this.#traffic.run(options), switchedOn: await endSwitching() };
    } finally {
      await endSwitching();
    }

    function endSwitching(): Promise<number> {
      ended.abort();
      return switching;
    }
  }

  async #switch(signal: AbortSignal): Promise<number> {
    let switchedOn = 0;
    while (!signal.aborted) {
      await this.acceleration.turnOn();
      switchedOn += 1;
      await delay(SWITCH_MILLISECONDS);
      // For both pods at once, or for one after the other.
      const first = [undefined, ...this.lab.pods][switchedOn % (this.lab.pods.length + 1)];
      if (first !== undefined) {
        await this.acceleration.turnOffFor(first);
        await delay(SWITCH_MILLISECONDS);
      }
      await this.acceleration.turnOff();
      await delay(SWITCH_MILLISECONDS);
    }
    return switchedOn;
  }

  /** Gives how many agents took acceleration over and were killed. */
  async #killAgents(signal: AbortSignal): Promise<number> {
    let killed = 0;
    await this.acceleration.handOver(async () => {
      while (!signal.aborted) {
        const agent = spawn(process.execPath, ['--import', 'tsx', AGENT, 'null', `/sys/fs/bpf/${this.lab.id}`], { stdio: ['ignore', 'pipe', 'inherit'] });
        const exited = once(agent, 'exit');
        await Promise.race([once(agent.stdout, 'data'), exited]);
        agent.kill('SIGKILL');
        await exited;
        killed += 1;
      }
    });
    return killed;
  }

  async #upgrade(signal: AbortSignal): Promise<number> {
    let upgraded = 0;
    while (!signal.aborted) {
      await this.acceleration.upgrade();
      upgraded += 1;
      await delay(SWITCH_MILLISECONDS);
    }
    return upgraded;
  }

  async #runSwitchedOnLate(options: TrafficOptions): Promise<{ readonly result: TrafficResult; readonly switchedOn: number }> {
    let turningOn: Promise<void> | undefined;
    const result = await this.#traffic.run({
      ...options,
      onProgress: (report) => {
        options.onProgress?.(report);
        if (report.ended >= options.connections / 2) {
          turningOn ??= this.acceleration.turnOn();
        }
      },
    });
    await turningOn;
    return { result, switchedOn: turningOn === undefined ? 0 : 1 };
  }
}

/** Gives the highest four bits of a mode's seeds. */
function tagOf(mode: SoakMode): number {
  return SOAK_MODES.indexOf(mode) + 1;
}
