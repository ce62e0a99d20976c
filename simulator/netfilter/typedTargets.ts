import { parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import { findOption } from './extension.ts';
import { cutText } from './optionArguments.ts';
import type { Backend, ExtensionOption, MarkChange, NatRange, NumberRange, Target } from './ruleSet.ts';

const ALL_BITS = 0xffff_ffff;

/** Gives a target with its options as a target of the model: of its own kind where it is applied, else as an extension. */
export function toTarget(name: string, given: readonly ExtensionOption[], backend: Backend): Target {
  const options = name === 'NFLOG' ? logOptions(given, backend) : given;
  switch (name) {
    case 'REJECT':
      return { kind: 'reject', with: findOption(options, 'reject-with')?.text ?? '' };
    case 'REDIRECT':
      return { kind: 'redirect', ports: natRange(options, 'to-ports').ports, options: flagsOf(options) };
    case 'MASQUERADE':
      return { kind: 'masquerade', ports: natRange(options, 'to-ports').ports, options: flagsOf(options) };
    case 'DNAT':
      return hasShiftedPorts(options) ? { kind: 'extension', name, options } : { kind: 'dnat', to: natRange(options, 'to-destination'), options: flagsOf(options) };
    case 'SNAT':
      return { kind: 'snat', to: natRange(options, 'to-source'), options: flagsOf(options) };
    case 'MARK':
      return { kind: 'mark', change: markChange(options) };
    case 'CONNMARK':
      return connectionMark(options);
    case 'NOTRACK':
      return { kind: 'notrack', name: 'NOTRACK' };
    case 'CT':
      return options.length === 1 && options[0]?.name === 'notrack' ? { kind: 'notrack', name: 'CT' } : { kind: 'extension', name, options };
    case 'TPROXY':
      return transparentProxy(options);
    case 'LOG':
    case 'NFLOG':
    case 'TRACE':
      return { kind: 'log', name, words: options.flatMap((option) => [`--${option.name}`, ...(option.value.type === 'text' ? [option.value.text] : option.text === null ? [] : [option.text])]) };
    default:
      return { kind: 'extension', name, options };
  }
}

/** nft never knew --nflog-range, and keeps longer prefixes than the 63 bytes of legacy (xt_NFLOG.h). */
function logOptions(options: readonly ExtensionOption[], backend: Backend): readonly ExtensionOption[] {
  return backend === 'nft' ? options.filter(({ name }) => name !== 'nflog-range') : options.map(cutPrefix);
}

function cutPrefix(option: ExtensionOption): ExtensionOption {
  const { name, value } = option;
  return name === 'nflog-prefix' && value.type === 'text' ? { ...option, value: { type: 'text', text: cutText(value.text, 63) } } : option;
}

function flagsOf(options: readonly ExtensionOption[]): readonly string[] {
  return options.filter(({ value }) => value.type === 'flag').map(({ name }) => `--${name}`);
}

function hasShiftedPorts(options: readonly ExtensionOption[]): boolean {
  return findOption(options, 'to-destination')?.text?.includes('/') === true;
}

function natRange(options: readonly ExtensionOption[], name: string): NatRange {
  const value = findOption(options, name)?.value;
  const words = value?.type === 'names' ? value.names : [];
  const portText = words.find((word) => word.startsWith(':') && !word.startsWith('::'))?.slice(1);
  const addresses = words.filter((word) => !(word.startsWith(':') && !word.startsWith('::'))).flatMap((word) => parseIpAddress(word) ?? []);
  const first = addresses[0];
  return { addresses: first === undefined ? null : { first, last: addresses[1] ?? first }, ports: portText === undefined ? null : portRange(portText) };
}

function portRange(text: string): NumberRange {
  const [first = 0, last = first] = text.split('-').map(Number);
  return { first, last };
}

/** Every operation is kept as value and mask (libxt_MARK.c, mark_tg_parse). */
function markChange(options: readonly ExtensionOption[]): MarkChange {
  const option = options.find(({ name }) => name.endsWith('mark') && !name.endsWith('shift-mark'));
  const value = option?.value;
  if (value?.type === 'masked') {
    return { value: value.value, mask: option?.name === 'set-mark' ? (value.value | value.mask) >>> 0 : value.mask };
  }
  const bits = value?.type === 'number' ? value.value : 0;
  switch (option?.name) {
    case 'and-mark':
      return { value: 0, mask: ~bits >>> 0 };
    case 'or-mark':
      return { value: bits, mask: bits };
    default:
      return { value: bits, mask: 0 };
  }
}

function connectionMark(options: readonly ExtensionOption[]): Target {
  const shift = options.find(({ name, text }) => name.endsWith('-shift-mark') && text !== '0');
  const action = options.some(({ name }) => name === 'save-mark') ? 'save' : options.some(({ name }) => name === 'restore-mark') ? 'restore' : null;
  const maskOf = (name: string): number => {
    const value = (findOption(options, name) ?? findOption(options, 'mask'))?.value;
    return value?.type === 'number' ? value.value : ALL_BITS;
  };
  if (shift !== undefined) {
    const change = markChange(options);
    const hexadecimal = (bits: number): string => `0x${bits.toString(16)}`;
    const first: readonly ExtensionOption[] =
      action === null
        ? [{ name: 'set-xmark', negated: false, value: { type: 'masked', ...change }, text: `${hexadecimal(change.value)}/${hexadecimal(change.mask)}` }]
        : [
            { name: `${action}-mark`, negated: false, value: { type: 'flag' }, text: null },
            { name: 'nfmask', negated: false, value: { type: 'number', value: maskOf('nfmask') }, text: hexadecimal(maskOf('nfmask')) },
            { name: 'ctmask', negated: false, value: { type: 'number', value: maskOf('ctmask') }, text: hexadecimal(maskOf('ctmask')) },
          ];
    return { kind: 'extension', name: 'CONNMARK', options: [...first, shift] };
  }
  return action === null ? { kind: 'connectionMark', action: 'set', change: markChange(options) } : { kind: 'connectionMark', action, packetMask: maskOf('nfmask'), connectionMask: maskOf('ctmask') };
}

function transparentProxy(options: readonly ExtensionOption[]): Target {
  const port = findOption(options, 'on-port')?.value;
  const address = findOption(options, 'on-ip')?.value;
  const mark = findOption(options, 'tproxy-mark')?.value;
  const given = address?.type === 'addresses' ? address.first : undefined;
  return {
    kind: 'tproxy',
    port: port?.type === 'number' ? port.value : 0,
    address: given === undefined || given === '0.0.0.0' || given === '::' ? null : given,
    change: mark?.type === 'masked' ? { value: mark.value, mask: mark.mask } : { value: 0, mask: 0 },
  };
}
