import type { Condition, Decision, PacketState, Place, TracePhase, TraceStep } from '../../agent/protocol/trace.ts';

/** What a step says, before it has its place in the list. */
export interface StepDraft {
  readonly place: Place;
  readonly before: PacketState;
  readonly after: PacketState;
  readonly conditions?: readonly Condition[];
  readonly decision: Decision;
  readonly reason: string;
}

const NO_CONDITIONS: readonly Condition[] = [];

/** Gathers the steps of a trace in order, with what they count to. */
export class TraceRecorder {
  readonly #steps: TraceStep[] = [];
  #leg = 0;
  #phase: TracePhase = 'socket';
  #packet: number | null = null;
  /** Tables that were asked for packets of the flow. */
  tablesVisited = 0;
  /** Rules that were compared with packets of the flow; policies are not rules. */
  rulesCompared = 0;

  get steps(): readonly TraceStep[] {
    return this.#steps;
  }

  /** Says which leg and phase the steps that follow belong to. */
  enter(leg: number, phase: TracePhase): void {
    this.#leg = leg;
    this.#phase = phase;
  }

  /** Says which phase the steps that follow belong to, and gives the one before. */
  enterPhase(phase: TracePhase): TracePhase {
    const before = this.#phase;
    this.#phase = phase;
    return before;
  }

  /** Says which packet the steps that follow are about; null for none. */
  enterPacket(packet: number | null): void {
    this.#packet = packet;
  }

  /** Adds a step and gives its index. */
  add(draft: StepDraft): number {
    const index = this.#steps.length;
    const { place, before, after, conditions = NO_CONDITIONS, decision, reason } = draft;
    const step: TraceStep = this.#packet === null ? { index, leg: this.#leg, phase: this.#phase, place, before, after, conditions, decision, reason } : { index, leg: this.#leg, phase: this.#phase, packet: this.#packet, place, before, after, conditions, decision, reason };
    this.#steps.push(step);
    return index;
  }

  /** Adds what a step turned out to do: the effect of a NAT rule is known only once its table has ended. */
  amend(index: number, change: Pick<StepDraft, 'after' | 'reason'>): void {
    const step = this.#steps[index];
    if (step === undefined) {
      throw new RangeError(`there is no step ${index}`);
    }
    this.#steps[index] = { ...step, ...change };
  }

  /** Adds the steps of another recorder, which was kept apart until it was clear that they are worth showing. */
  append(other: TraceRecorder): void {
    for (const step of other.#steps) {
      this.#steps.push({ ...step, index: this.#steps.length });
    }
  }
}
