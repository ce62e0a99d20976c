import { parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import { ownValue } from './readMatch.ts';
import type { MarkChange, NatRange, NumberRange, Target } from './ruleSet.ts';
import { parseNumber, readMask, readMaskedValue, readNatRange, readPortRange, setMarkChange } from './values.ts';
import type { Word } from './words.ts';
import type { WordReader } from './wordReader.ts';
import { rejectWord, SyntaxProblem } from './wordReader.ts';

/** A target while its options are read. */
export interface TargetReader {
  /** Takes the option that is next if it belongs to this target, and says whether it did. */
  readonly takeOption: (reader: WordReader) => boolean;
  /** Gives the target once the line is read; throws a SyntaxProblem where it is not complete. */
  readonly finish: () => Target;
}

const MAX_MARK = 0xffff_ffff;
const RANDOM_OPTIONS: readonly string[] = ['--random', '--random-fully', '--persistent'];
/** The short names that iptables takes for REJECT's answers (libipt_REJECT.c). */
const REJECT_ALIASES: Readonly<Record<string, string>> = {
  'net-unreach': 'icmp-net-unreachable', 'host-unreach': 'icmp-host-unreachable', 'proto-unreach': 'icmp-proto-unreachable',
  'port-unreach': 'icmp-port-unreachable', 'net-prohib': 'icmp-net-prohibited', 'host-prohib': 'icmp-host-prohibited',
  'admin-prohib': 'icmp-admin-prohibited', 'tcp-rst': 'tcp-reset',
};
const LOG_TARGETS = new Set(['LOG', 'NFLOG', 'TRACE']);

/** Reads the target that `-j NAME` or `-g NAME` names. A name that is no target of iptables is a chain, or unknown. */
export function startTarget(name: Word, goto: boolean, isChain: (name: string) => boolean): TargetReader {
  if (goto || isChain(name.text)) {
    return fixed({ kind: 'chain', name: name.text, goto });
  }
  const start = ownValue(TARGETS, name.text);
  if (start !== undefined) {
    return start(name);
  }
  return LOG_TARGETS.has(name.text)
    ? collectWords((words) => ({ kind: 'log', name: name.text, words }))
    : collectWords((words) => ({ kind: 'unknown', name: name.text, words }));
}

const TARGETS: Readonly<Record<string, (name: Word) => TargetReader>> = {
  ACCEPT: () => fixed({ kind: 'accept' }),
  DROP: () => fixed({ kind: 'drop' }),
  RETURN: () => fixed({ kind: 'return' }),
  NOTRACK: () => fixed({ kind: 'notrack', name: 'NOTRACK' }),
  REJECT: () => {
    let answer = 'icmp-port-unreachable';
    return options({ '--reject-with': (reader) => (answer = reader.take('an answer such as icmp-port-unreachable').text) }, () => ({
      kind: 'reject',
      with: ownValue(REJECT_ALIASES, answer) ?? answer,
    }));
  },
  REDIRECT: () => portTarget((ports, extra) => ({ kind: 'redirect', ports, options: extra })),
  MASQUERADE: () => portTarget((ports, extra) => ({ kind: 'masquerade', ports, options: extra })),
  DNAT: (name) => natTarget(name, '--to-destination', (to, extra) => ({ kind: 'dnat', to, options: extra })),
  SNAT: (name) => natTarget(name, '--to-source', (to, extra) => ({ kind: 'snat', to, options: extra })),
  MARK: (name) => markTarget(name, {}, (change) => ({ kind: 'mark', change })),
  CONNMARK: readConnectionMark,
  CT: readConntrackTarget,
  TPROXY: readTransparentProxy,
};

function readConnectionMark(name: Word): TargetReader {
  let copy: 'save' | 'restore' | undefined;
  let packetMask = MAX_MARK;
  let connectionMask = MAX_MARK;
  const copyOptions: OptionTable = {
    '--save-mark': () => (copy = 'save'),
    '--restore-mark': () => (copy = 'restore'),
    '--nfmask': (reader) => (packetMask = readMask(reader.take('a mask'))),
    '--ctmask': (reader) => (connectionMask = readMask(reader.take('a mask'))),
    '--mask': (reader) => (packetMask = connectionMask = readMask(reader.take('a mask'))),
  };
  const setter = markTarget(name, copyOptions, (change) => ({ kind: 'connectionMark', action: 'set', change }));
  return {
    takeOption: setter.takeOption,
    finish: () => (copy === undefined ? setter.finish() : { kind: 'connectionMark', action: copy, packetMask, connectionMask }),
  };
}

function readConntrackTarget(name: Word): TargetReader {
  let notrack = false;
  const others = collectWords((words) => ({ kind: 'unknown', name: name.text, words }));
  return {
    takeOption: (reader) => {
      if (reader.peek()?.text === '--notrack') {
        reader.take('--notrack');
        notrack = true;
        return true;
      }
      return others.takeOption(reader);
    },
    finish: () => {
      const rest = others.finish();
      const alone = rest.kind === 'unknown' && rest.words.length === 0;
      return notrack && alone ? { kind: 'notrack', name: 'CT' } : rest;
    },
  };
}

function readTransparentProxy(name: Word): TargetReader {
  let port: number | undefined;
  let address: ReturnType<typeof parseIpAddress>;
  let change: MarkChange = { value: 0, mask: 0 };
  return options(
    {
      '--on-port': (reader) => {
        const word = reader.take('a port');
        port = readPortRange(word, word.text, '-').first;
      },
      '--on-ip': (reader) => {
        const word = reader.take('an address');
        address = parseIpAddress(word.text) ?? rejectWord(word, 'an address');
      },
      '--tproxy-mark': (reader) => (change = readMaskedValue(reader.take('a mark'))),
    },
    () => {
      if (port === undefined) {
        throw new SyntaxProblem(name.column, 'TPROXY does not say to which port.', '--on-port PORT');
      }
      const noAddress = address === undefined || address === '0.0.0.0' || address === '::';
      return { kind: 'tproxy', port, address: noAddress ? null : (address ?? null), change };
    },
  );
}

type OptionTable = Readonly<Record<string, (reader: WordReader) => unknown>>;

function options(table: OptionTable, finish: () => Target): TargetReader {
  return {
    takeOption: (reader) => {
      const take = ownValue(table, reader.peek()?.text ?? '');
      if (take === undefined) {
        return false;
      }
      reader.take('an option');
      take(reader);
      return true;
    },
    finish,
  };
}

function fixed(target: Target): TargetReader {
  return options({}, () => target);
}

function portTarget(build: (ports: NumberRange | null, extra: readonly string[]) => Target): TargetReader {
  let ports: NumberRange | null = null;
  const extra: string[] = [];
  const takePorts = (reader: WordReader): void => {
    const word = reader.take('a port');
    ports = readPortRange(word, word.text, '-');
  };
  return options({ '--to-ports': takePorts, '--to-port': takePorts, ...flags(extra) }, () => build(ports, extra));
}

function natTarget(name: Word, option: string, build: (to: NatRange, extra: readonly string[]) => Target): TargetReader {
  let to: NatRange | undefined;
  const extra: string[] = [];
  return options({ [option]: (reader) => (to = readNatRange(reader.take('an address'))), ...flags(extra) }, () => {
    if (to === undefined) {
      throw new SyntaxProblem(name.column, `${name.text} does not say where to.`, `${option} ADDRESS`);
    }
    return build(to, extra);
  });
}

function markTarget(name: Word, more: OptionTable, build: (change: MarkChange) => Target): TargetReader {
  let change: MarkChange | undefined;
  const number = (reader: WordReader): number => {
    const word = reader.take('a number');
    return parseNumber(word.text) ?? rejectWord(word, 'a number of 32 bits');
  };
  return options(
    {
      ...more,
      '--set-xmark': (reader) => (change = readMaskedValue(reader.take('a mark'))),
      '--set-mark': (reader) => (change = setMarkChange(readMaskedValue(reader.take('a mark')))),
      '--and-mark': (reader) => (change = { value: 0, mask: ~number(reader) >>> 0 }),
      '--or-mark': (reader) => {
        const bits = number(reader);
        change = { value: bits, mask: bits };
      },
      '--xor-mark': (reader) => (change = { value: number(reader), mask: 0 }),
    },
    () => {
      if (change === undefined) {
        throw new SyntaxProblem(name.column, `${name.text} does not say which mark.`, '--set-xmark VALUE/MASK');
      }
      return build(change);
    },
  );
}

function flags(found: string[]): OptionTable {
  return Object.fromEntries(RANDOM_OPTIONS.map((option) => [option, () => found.push(option)]));
}

/** Takes options that are not known with their values, up to what begins something else. */
function collectWords(build: (words: readonly string[]) => Target): TargetReader {
  const words: string[] = [];
  return {
    takeOption: (reader) => {
      const option = reader.peek()?.text;
      if (option?.startsWith('--') !== true) {
        return false;
      }
      words.push(reader.take('an option').text);
      while (reader.peek() !== undefined && reader.peek()?.text.startsWith('-') === false && reader.peek()?.text !== '!') {
        words.push(reader.take('a value').text);
      }
      return true;
    },
    finish: () => build(words),
  };
}
