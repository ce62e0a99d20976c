import type { MeshOption, OptionValues } from './meshOptions.ts';
import type { MeshRules } from './meshRules.ts';

/** A mesh's own tool: its options by name, and what it does with them. */
export interface MeshTool {
  readonly name: 'istio' | 'linkerd' | 'kuma' | 'osm';
  /** What its rules are, one sentence. */
  readonly summary: string;
  /** How its options and defaults are to be understood: paragraphs. */
  readonly description: readonly string[];
  readonly options: readonly MeshOption[];
  /** The boolean option that has it make IPv6 rules; null where it makes none, or always does. */
  readonly ipv6Option: string | null;
  /** Gives the rules for what was given; throws a MeshpathError INPUT_INVALID for what the tool would not take. */
  generate(values: OptionValues): MeshRules;
}
