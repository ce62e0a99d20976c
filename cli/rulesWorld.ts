import type { RuleSet, Snapshot } from '../agent/protocol/snapshot.ts';
import type { PacketFlowText } from '../simulator/explain/packetFlowText.ts';
import { parsePacketFlow } from '../simulator/explain/packetFlowText.ts';
import { inputError } from '../agent/protocol/errors.ts';
import { readRuleSet } from '../simulator/netfilter/readRuleSet.ts';
import type { ParsedRuleSet, RuleProblem } from '../simulator/netfilter/ruleSet.ts';
import { deriveWorld } from '../simulator/world/derivedWorld.ts';
import { createWorldSnapshot, DESCRIBED_NAMESPACE } from '../simulator/world/describedWorld.ts';
import { readWorldFile } from '../simulator/world/worldFile.ts';
import type { CommandArguments, OptionDefinitions } from './command.ts';
import { readRulesFile } from './rulesFile.ts';
import { formatProblem, isReadable, tellDamage } from './rulesText.ts';
import { escapeText } from './text/escape.ts';

/** How many flows one command line may have. */
const MAX_FLOWS = 10_000;
/** What comes after them is most often the same again, and would hide what is asked for. */
const MAX_TOLD_PROBLEMS = 10;

/** The options of commands that let flows meet rules. */
export const RULES_WORLD_OPTIONS: OptionDefinitions = {
  rules6: { type: 'string', valueName: 'FILE', description: 'The IPv6 rules beside them, as ip6tables-save prints them.' },
  flow: { type: 'string', multiple: true, valueName: 'FLOW', description: 'A flow: "tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0".' },
  world: { type: 'string', valueName: 'FILE', description: 'The world around the rules; taken from the flows where it is left out.' },
  ipset: { type: 'string', valueName: 'FILE', description: 'The IP sets, as ipset save prints them.' },
  backend: { type: 'string', valueName: 'NAME', description: 'The kind of iptables that loaded the rules, nft or legacy (nft).' },
};

/** Rules with the world around them, ready for flows. */
export interface RulesWorld {
  readonly snapshot: Snapshot;
  readonly flows: readonly (PacketFlowText & { readonly text: string })[];
  /** What was taken to be so because no world was given; sentences. */
  readonly assumptions: readonly string[];
  /** Whether all of the rules could be read: else what is said of flows holds for the others only. */
  readonly isWhole: boolean;
}

interface RulesRead extends Pick<RulesWorld, 'isWhole'> {
  readonly ruleSets: readonly RuleSet[];
  readonly parsed: readonly ParsedRuleSet[];
}

/** What commands need to read rules. */
export interface RulesSource {
  readonly arguments: CommandArguments;
  readonly note: (line: string) => void;
}

/** Reads the flows of a command line; rejects where there are none or one cannot be read. */
export function readFlows(args: CommandArguments): RulesWorld['flows'] {
  const texts = args.texts('flow');
  if (texts.length === 0 || texts.length > MAX_FLOWS) {
    throw inputError(texts.length === 0 ? 'There is no flow.' : 'There are too many flows.', `There may be from 1 to ${MAX_FLOWS}.`, 'Give --flow "tcp 10.1.0.2:4000 > 10.1.0.3:8080 in eth0", once for each flow.');
  }
  return texts.map((text) => ({ ...parsePacketFlow(text, DESCRIBED_NAMESPACE), text }));
}

/**
 * Reads the rules in `path` (null: none for IPv4) with what the options say of the world around them. Lines that cannot be
 * read are told by `note`.
 */
export async function readRulesWorld({ arguments: args, note }: RulesSource, path: string | null, flows: RulesWorld['flows']): Promise<RulesWorld> {
  const { ruleSets, parsed, isWhole } = await readRuleSets({ arguments: args, note }, path);
  const ipsetPath = args.text('ipset');
  const ipSets = ipsetPath === undefined ? null : (await readRulesFile(ipsetPath)).text;
  const worldPath = args.text('world');
  if (worldPath !== undefined) {
    const world = readWorldFile((await readRulesFile(worldPath)).text);
    return { snapshot: createWorldSnapshot(world, { ruleSets, ipSets }), flows, assumptions: [], isWhole };
  }
  const { world, assumptions } = deriveWorld(flows, parsed);
  return { snapshot: createWorldSnapshot(world, { ruleSets, ipSets }), flows, assumptions, isWhole };
}

async function readRuleSets({ arguments: args, note }: RulesSource, path: string | null): Promise<RulesRead> {
  const backend = readBackend(args.text('backend') ?? 'nft');
  const files = [['ipv4', path ?? undefined], ['ipv6', args.text('rules6')]] as const;
  const ruleSets: RuleSet[] = [];
  const parsed: ParsedRuleSet[] = [];
  let isWhole = true;
  for (const [family, file] of files) {
    if (file !== undefined) {
      const { text, isDamaged } = await readRulesFile(file);
      const ruleSet = readRuleSet(text, { family, backend });
      tellProblems(file, ruleSet.problems, note);
      tellDamage(isDamaged, note);
      isWhole &&= isReadable(ruleSet.problems) && !isDamaged;
      ruleSets.push({ family, backend, text });
      parsed.push(ruleSet);
    }
  }
  return { ruleSets, parsed, isWhole };
}

function tellProblems(file: string, problems: readonly RuleProblem[], note: RulesSource['note']): void {
  problems.slice(0, MAX_TOLD_PROBLEMS).map((problem) => formatProblem(file, problem)).forEach(note);
  if (problems.length > MAX_TOLD_PROBLEMS) {
    note(`${escapeText(file)}: ${problems.length - MAX_TOLD_PROBLEMS} more problems, which meshpath rules lint tells.`);
  }
}

function readBackend(text: string): RuleSet['backend'] {
  if (text !== 'nft' && text !== 'legacy') {
    throw inputError(`There is no backend '${escapeText(text.slice(0, 40))}'.`, 'Rules are loaded by iptables-nft or by iptables-legacy.', 'Give --backend nft or --backend legacy.');
  }
  return text;
}
