import { formatAddressPrefix } from './addressPrefix.ts';
import type { RuleBody } from './readRule.ts';
import type { Chain, Counters, MarkChange, MaskedValue, Match, NatRange, NumberRange, ParsedRuleSet, Target, TcpFlag } from './ruleSet.ts';
import { BUILT_IN_CHAINS } from './ruleSet.ts';
import { quoteWord } from './words.ts';

/** Writes a rule set in the form of iptables-save, with counters where they are known and wanted. */
export function writeRuleSet(ruleSet: ParsedRuleSet, options: { readonly counters: boolean }): string {
  const lines: string[] = [];
  for (const table of ruleSet.tables) {
    const chains = orderChains([...table.chains.values()], BUILT_IN_CHAINS[table.name]);
    lines.push(`*${table.name}`);
    for (const chain of chains) {
      lines.push(`:${chain.name} ${chain.policy ?? '-'} ${writeCounters(chain.counters ?? { packets: 0n, bytes: 0n })}`);
    }
    for (const chain of chains) {
      for (const rule of chain.rules) {
        const counters = options.counters && rule.counters !== null ? `${writeCounters(rule.counters)} ` : '';
        lines.push(`${counters}${rule.text}`);
      }
    }
    lines.push('COMMIT');
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

/** Writes one rule as iptables-save does: `-A CHAIN`, the base matches, the modules, the target. */
export function writeRule(chain: string, body: RuleBody): string {
  return [`-A ${chain}`, ...writeMatches(body.matches), ...writeTarget(body.target)].join(' ');
}

/** Writes one match without its `-m`: `! --dport 15008`. */
export function writeMatch(match: Match): string {
  const negation = 'negated' in match && match.negated ? '! ' : '';
  return `${negation}${matchOption(match)}`;
}

/** Writes a target with its `-j` or `-g`. */
export function writeTarget(target: Target): string[] {
  switch (target.kind) {
    case 'none':
      return [];
    case 'accept':
    case 'drop':
    case 'return':
      return ['-j', target.kind.toUpperCase()];
    case 'reject':
      return ['-j REJECT --reject-with', target.with];
    case 'chain':
      return [target.goto ? '-g' : '-j', target.name];
    case 'redirect':
    case 'masquerade':
      return [`-j ${target.kind.toUpperCase()}`, ...(target.ports === null ? [] : [`--to-ports ${writeRange(target.ports, '-')}`]), ...target.options];
    case 'dnat':
      return ['-j DNAT --to-destination', writeNatRange(target.to), ...target.options];
    case 'snat':
      return ['-j SNAT --to-source', writeNatRange(target.to), ...target.options];
    case 'mark':
      return ['-j MARK', writeMarkChange(target.change)];
    case 'connectionMark':
      return [
        '-j CONNMARK',
        target.action === 'set'
          ? writeMarkChange(target.change)
          : `--${target.action}-mark --nfmask ${hex(target.packetMask)} --ctmask ${hex(target.connectionMask)}`,
      ];
    case 'notrack':
      return [target.name === 'CT' ? '-j CT --notrack' : '-j NOTRACK'];
    case 'tproxy':
      return [`-j TPROXY --on-port ${target.port} --on-ip ${target.address ?? '0.0.0.0'} --tproxy-mark ${hex(target.change.value)}/${hex(target.change.mask)}`];
    case 'log':
    case 'unknown':
      return ['-j', target.name, ...target.words.map(writeWord)];
    case 'extension':
      return ['-j', target.name];
  }
}

function writeMatches(matches: readonly Match[]): string[] {
  const texts: string[] = [];
  for (const match of matches) {
    if (match.kind === 'port' && match.range.first === 0 && match.range.last === 65_535 && !match.negated) {
      continue;
    }
    texts.push(writeMatch(match));
  }
  return texts;
}

function matchOption(match: Match): string {
  switch (match.kind) {
    case 'source':
      return `-s ${formatAddressPrefix(match.prefix)}`;
    case 'destination':
      return `-d ${formatAddressPrefix(match.prefix)}`;
    case 'inInterface':
      return `-i ${match.name}`;
    case 'outInterface':
      return `-o ${match.name}`;
    case 'protocol':
      return `-p ${match.protocol}`;
    case 'fragment':
      return '-f';
    case 'module':
      return `-m ${match.module}`;
    case 'port':
      return `--${match.which === 'source' ? 's' : 'd'}port ${writeRange(match.range, ':')}`;
    case 'tcpFlags':
      return `--tcp-flags ${writeFlags(match.mask)} ${writeFlags(match.set)}`;
    case 'multiport':
      return `--${{ source: 's', destination: 'd', either: '' }[match.which]}ports ${match.ranges.map((range) => writeRange(range, ':')).join(',')}`;
    case 'owner':
      return `--${match.which}-owner ${writeRange(match.range, '-')}`;
    case 'socketExists':
      return '--socket-exists';
    case 'connectionState':
      return `--${match.module === 'state' ? 'state' : 'ctstate'} ${match.states.join(',')}`;
    case 'mark':
    case 'connectionMark':
      return `--mark ${writeMasked(match.wanted)}`;
    case 'addressType':
      return `--${match.which === 'source' ? 'src' : 'dst'}-type ${match.types.join(',')}`;
    case 'comment':
      return `--comment ${quoteWord(match.text)}`;
    case 'tcpOption':
    case 'supplementaryGroups':
    case 'addressTypeInterface':
    case 'extension':
      return '';
    case 'unknown':
      return [...(match.module === '' ? [] : [`-m ${writeWord(match.module)}`]), ...match.words.map(writeWord)].join(' ');
  }
}

function writeFlags(flags: readonly TcpFlag[]): string {
  return flags.length === 0 ? 'NONE' : flags.join(',');
}

function writeMasked({ value, mask }: MaskedValue): string {
  return mask === 0xffff_ffff ? hex(value) : `${hex(value)}/${hex(mask)}`;
}

function writeMarkChange({ value, mask }: MarkChange): string {
  return `--set-xmark ${hex(value)}/${hex(mask)}`;
}

function writeNatRange({ addresses, ports }: NatRange): string {
  const portText = ports === null ? '' : `:${writeRange(ports, '-')}`;
  if (addresses === null) {
    return portText;
  }
  const text = addresses.first === addresses.last ? addresses.first : `${addresses.first}-${addresses.last}`;
  return addresses.first.includes(':') && ports !== null ? `[${text}]${portText}` : `${text}${portText}`;
}

function writeRange({ first, last }: NumberRange, separator: string): string {
  return first === last ? String(first) : `${first}${separator}${last}`;
}

function writeCounters({ packets, bytes }: Counters): string {
  return `[${packets}:${bytes}]`;
}

/** Words of unknown options are quoted only where they would not read back otherwise. */
function writeWord(word: string): string {
  return /^[^\s"'\\]+$/.test(word) ? word : quoteWord(word);
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** Built-in chains first, in hook order, then user chains as they were given. */
function orderChains(chains: readonly Chain[], builtIn: readonly string[]): readonly Chain[] {
  const place = (chain: Chain): number => (builtIn.includes(chain.name) ? builtIn.indexOf(chain.name) : builtIn.length);
  return chains.toSorted((left, right) => place(left) - place(right));
}
