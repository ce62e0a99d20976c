import { formatRuleAddress, formatRulePrefix } from './iptablesAddress.ts';
import type { AddressFamily, Chain, Counters, ExtensionOption, MarkChange, MaskedValue, Match, NatRange, NumberRange, ParsedRuleSet, RuleBody, Table, Target, TcpFlag } from './ruleSet.ts';
import { BUILT_IN_CHAINS } from './ruleSet.ts';
import { hexText } from './numberText.ts';
import { quoteWord } from './words.ts';

/** How a rule set is written. */
export interface WriteOptions {
  /** Whether counters are written, where they are known; without them those of chains are zero. */
  readonly counters: boolean;
}

/**
 * Writes a rule set in the form of iptables-save: built-in chains in the order of their hooks, all of them, then the
 * others by name, then the rules. Tables come in the order of the rule set.
 */
export function writeRuleSet(ruleSet: ParsedRuleSet, options: WriteOptions): string {
  const lines: string[] = [];
  for (const table of ruleSet.tables) {
    const chains = orderChains(table);
    lines.push(`*${table.name}`);
    for (const chain of chains) {
      lines.push(`:${chain.name} ${chain.policy ?? '-'} ${writeCounters((options.counters ? chain.counters : null) ?? { packets: 0n, bytes: 0n })}`);
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
export function writeRule(chain: string, body: RuleBody, family: AddressFamily): string {
  let text = `-A ${chain}`;
  for (const match of body.matches) {
    const written = isSilent(match) ? '' : writeMatch(match, family);
    if (written !== '') {
      text += ` ${written}`;
    }
  }
  const target = writeTarget(body.target, family);
  return target.length === 0 ? text : `${text} ${target.join(' ')}`;
}

/** Ports that are all of them, and no flags at all, are not printed (libxt_tcp.c, tcp_save). */
function isSilent(match: Match): boolean {
  return (match.kind === 'port' && match.range.first === 0 && match.range.last === 65_535) || (match.kind === 'tcpFlags' && match.mask.length === 0 && !match.negated);
}

/** Writes one match without its `-m`: `! --dport 15008`. */
export function writeMatch(match: Match, family: AddressFamily = 'ipv4'): string {
  const negation = 'negated' in match && match.negated ? '! ' : '';
  return `${negation}${matchOption(match, family)}`;
}

/** Writes a target with its `-j` or `-g`. */
export function writeTarget(target: Target, family: AddressFamily = 'ipv4'): string[] {
  switch (target.kind) {
    case 'none':
      return [];
    case 'accept':
      return ['-j ACCEPT'];
    case 'drop':
      return ['-j DROP'];
    case 'return':
      return ['-j RETURN'];
    case 'reject':
      return ['-j REJECT --reject-with', target.with];
    case 'chain':
      return [target.goto ? '-g' : '-j', target.name];
    case 'redirect':
    case 'masquerade':
      return [`-j ${target.kind.toUpperCase()}`, ...(target.ports === null ? [] : [`--to-ports ${writeRange(target.ports, '-')}`]), ...target.options];
    case 'dnat':
      return ['-j DNAT --to-destination', writeNatRange(target.to, family), ...target.options];
    case 'snat':
      return ['-j SNAT --to-source', writeNatRange(target.to, family), ...target.options];
    case 'mark':
      return ['-j MARK', writeMarkChange(target.change)];
    case 'connectionMark':
      return [
        '-j CONNMARK',
        target.action === 'set'
          ? writeMarkChange(target.change)
          : `--${target.action}-mark --nfmask ${hexText(target.packetMask)} --ctmask ${hexText(target.connectionMask)}`,
      ];
    case 'notrack':
      return [target.name === 'CT' ? '-j CT --notrack' : '-j NOTRACK'];
    case 'tproxy': {
      const address = target.address === null ? (family === 'ipv4' ? '0.0.0.0' : '::') : formatRuleAddress(target.address, family);
      return [`-j TPROXY --on-port ${target.port} --on-ip ${address} --tproxy-mark ${hexText(target.change.value)}/${hexText(target.change.mask)}`];
    }
    case 'extension':
      return [`-j ${target.name}`, ...target.options.map(writeOption)];
    case 'log':
      return ['-j', target.name, ...writeLogWords(target.words)];
    case 'unknown':
      return ['-j', writeWord(target.name), ...target.words.map(writeWord)];
  }
}

/** Prefixes are quoted as xtables_save_string does; other words need no quotes. */
function writeLogWords(words: readonly string[]): string[] {
  return words.map((word, index) => (words[index - 1]?.endsWith('-prefix') === true ? quoteWord(word) : word));
}

function writeOption({ name, negated, text }: ExtensionOption): string {
  return `${negated ? '! ' : ''}--${name}${text === null ? '' : ` ${text}`}`;
}

function matchOption(match: Match, family: AddressFamily): string {
  switch (match.kind) {
    case 'source':
      return `-s ${formatRulePrefix(match.prefix, family)}`;
    case 'destination':
      return `-d ${formatRulePrefix(match.prefix, family)}`;
    case 'inInterface':
      return `-i ${writeWord(match.name)}`;
    case 'outInterface':
      return `-o ${writeWord(match.name)}`;
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
    case 'tcpOption':
      return `--tcp-option ${match.option}`;
    case 'supplementaryGroups':
      return '--suppl-groups';
    case 'addressTypeInterface':
      return `--limit-iface-${match.which}`;
    case 'extension':
      return [...(match.named ? [] : [`-m ${match.module}`]), ...match.options.map(writeOption)].join(' ');
    case 'comment':
      return `--comment ${quoteWord(match.text)}`;
    case 'unknown':
      return [...(match.module === '' ? [] : [`-m ${writeWord(match.module)}`]), ...match.words.map(writeWord)].join(' ');
  }
}

function writeFlags(flags: readonly TcpFlag[]): string {
  return flags.length === 0 ? 'NONE' : flags.join(',');
}

function writeMasked({ value, mask }: MaskedValue): string {
  return mask === 0xffff_ffff ? hexText(value) : `${hexText(value)}/${hexText(mask)}`;
}

function writeMarkChange({ value, mask }: MarkChange): string {
  return `--set-xmark ${hexText(value)}/${hexText(mask)}`;
}

function writeNatRange({ addresses, ports }: NatRange, family: AddressFamily): string {
  const portText = ports === null ? '' : `:${writeRange(ports, '-')}`;
  if (addresses === null) {
    return portText;
  }
  const first = formatRuleAddress(addresses.first, family);
  const text = addresses.first === addresses.last ? first : `${first}-${formatRuleAddress(addresses.last, family)}`;
  return family === 'ipv6' && ports !== null ? `[${text}]${portText}` : `${text}${portText}`;
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

/** Built-in chains first, in hook order and all of them, then the others by name as strcmp(3) orders them. */
function orderChains(table: Table): readonly Chain[] {
  const builtIn: readonly string[] = BUILT_IN_CHAINS[table.name];
  const others = [...table.chains.values()].filter(({ name }) => !builtIn.includes(name));
  return [
    ...builtIn.map((name): Chain => table.chains.get(name) ?? { name, policy: 'ACCEPT', counters: null, rules: [], line: 0 }),
    ...others.toSorted((left, right) => (left.name < right.name ? -1 : 1)),
  ];
}
