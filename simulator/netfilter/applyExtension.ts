import type { TargetEffect } from './applyTarget.ts';
import { end } from './applyTarget.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import type { Packet } from './packet.ts';
import type { Target } from './ruleSet.ts';

/** Applies a target that has no kind of its own in the model of rule sets. */
export function applyExtension(_target: Extract<Target, { kind: 'extension' }>, text: string, _packet: Packet, _environment: MatchEnvironment): TargetEffect {
  return end({ kind: 'unknown', dependsOn: `what '${text}' does` }, { kind: 'unknown', dependsOn: text }, `What '${text}' does is not modelled.`);
}
