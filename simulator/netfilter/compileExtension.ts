import type { CompiledMatch } from './compileMatch.ts';
import { UNKNOWN } from './compileMatch.ts';
import type { Match } from './ruleSet.ts';

/** Makes a match of another module of iptables ready. */
export function compileExtension(match: Extract<Match, { kind: 'extension' }>): CompiledMatch {
  return { match, what: `match ${match.module}`, wanted: match.options.map(({ text }) => text ?? '').join(' '), test: () => UNKNOWN, actual: () => 'not modelled', isStateful: false };
}
