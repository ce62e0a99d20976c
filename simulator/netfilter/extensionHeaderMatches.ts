import type { ModuleCompiler } from './compileExtension.ts';
import { FAILED, MATCHED, UNKNOWN } from './compileMatch.ts';
import type { Packet } from './packet.ts';
import { PROTOCOL } from './protocolNumbers.ts';

/** Matches of ip6tables for headers between the IPv6 header and the transport. Packets here have none, unless they are fragments. */

const EUI64_BYTES = 8;
const NO_NEXT_HEADER = 59;

/** What a packet without the header does not have (net/ipv6/netfilter/ip6t_frag.c and its like): false, negated or not. */
const absentHeader: ModuleCompiler = (match) => ({ what: `IPv6 header ${match.module}`, test: (packet) => (isWhole(packet) ? FAILED : UNKNOWN), actual: () => 'none' });

/** Like absentHeader, for a header that may be what the packet is all about. */
function protocolHeader(protocol: number): ModuleCompiler {
  return (match) => ({ what: `IPv6 header ${match.module}`, test: (packet) => (packet.protocol === protocol || !isWhole(packet) ? UNKNOWN : FAILED), actual: () => 'none' });
}

/** net/ipv6/netfilter/ip6t_ipv6header.c: every header of a packet is one of the list, and the other way round; with `--soft` all of the list are there. */
const headerList: ModuleCompiler = (match) => {
  const header = match.options.find(({ name }) => name === 'header');
  if (header?.value.type !== 'names') {
    return undefined;
  }
  const { names } = header.value;
  const isSoft = match.options.some(({ name }) => name === 'soft');
  return {
    what: 'IPv6 headers',
    test: (packet) => {
      if (!isWhole(packet) || packet.protocol === PROTOCOL.ah) {
        return UNKNOWN;
      }
      const only = lastHeader(packet);
      if (isSoft) {
        return names.every((name) => (name === only) !== header.negated) ? MATCHED : FAILED;
      }
      return (names.length === 1 && names[0] === only) !== header.negated ? MATCHED : FAILED;
    },
    actual: lastHeader,
  };
};

/** net/ipv6/netfilter/ip6t_eui64.c: the lower half of the source address is made of the link address. */
const linkIdentifier: ModuleCompiler = () => ({
  what: 'interface identifier of the source',
  test: ({ macSource, source }) => {
    const mac = macSource?.split(':').map((part) => Number.parseInt(part, 16));
    if (mac?.length !== 6) {
      return UNKNOWN;
    }
    const [first = 0, second = 0, third = 0, ...rest] = mac;
    const wanted = [first ^ 2, second, third, 0xff, 0xfe, ...rest];
    const own = [source.w2, source.w3].flatMap((word) => [word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255]);
    return own.length === EUI64_BYTES && own.every((byte, index) => byte === wanted[index]) ? MATCHED : FAILED;
  },
  actual: ({ macSource, source }) => `${source.text} from ${macSource ?? 'an unknown link address'}`,
});

/** The modules by name. */
export const EXTENSION_HEADER_MODULES: Readonly<Record<string, ModuleCompiler>> = {
  frag: absentHeader, rt: absentHeader, hbh: absentHeader, dst: absentHeader, srh: absentHeader, ipv6header: headerList, eui64: linkIdentifier,
  // That of IPv4 needs `-p ah`.
  ah: protocolHeader(PROTOCOL.ah),
};

function isWhole(packet: Packet): boolean {
  return packet.fragmentOffset === 0 && !packet.moreFragments;
}

/** What ipv6header calls the header behind that of IPv6. */
function lastHeader({ protocol }: Packet): string {
  return protocol === PROTOCOL.esp ? 'esp' : protocol === NO_NEXT_HEADER ? 'ipv6-nonxt' : 'protocol';
}
