import fc from 'fast-check';
import { formatIpAddress, ipAddressBytes, isIpv4 as isV4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress, NamespaceId } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { SourceRange } from '../../simulator/explain/sourcePartition.ts';
import { partitionSources } from '../../simulator/explain/sourcePartition.ts';
import { buildWorld } from '../../simulator/world/world.ts';
import { caseDraft } from './generateCase.ts';
import { MAC, NODE, makeWorld, worldChoices } from './generateWorld.ts';
import { JudgeBench, isRefusal } from './judge.ts';
import type { Backend, Stimulus } from './judgeCase.ts';
import { makeSnapshot, namespaceId } from './simulatorRun.ts';

/** The kernel judges what `rules sources` says: datagrams from sources of every range, and whether their socket gets them. */

/** What judging the sources of one world came to. */
export interface SourcesJudgement {
  readonly ranges: number;
  /** Ranges of which the simulator does not say whether they reach. */
  readonly undecided: number;
  readonly tried: number;
  /** Sources that fared otherwise, with the rules. */
  readonly wrong: readonly string[];
}

/** Has a socket on each of these ports (generateWorld.ts); from elsewhere NAT leads to them. */
const PORTS = [53, 15_053, 9000];
const SOURCE_PORTS = [1, 4001, 40_000, 65_535];
/** Of more ranges than this only some are tried. */
const MAX_RANGES = 20;

/** Judges the sources that reach one port of the node under random rules; null where iptables does not take the rules. */
export async function judgeSources(backend: Backend, seed: number): Promise<SourcesJudgement | null> {
  const [choices] = fc.sample(worldChoices, { seed, numRuns: 1 });
  const [draft] = choices === undefined ? [] : fc.sample(caseDraft(choices), { seed, numRuns: 1 });
  if (choices === undefined || draft === undefined) {
    throw new RangeError('there is always a sample');
  }
  const isIpv4 = seed % 3 !== 0;
  const destination = { address: toIpAddress(isIpv4 ? NODE.left4 : NODE.right6), port: toPortNumber(PORTS[seed % PORTS.length] ?? 53) };
  const bench = new JudgeBench(makeWorld(choices), backend);
  try {
    const devices = new Map([[choices.leftDevice, MAC.left], [choices.rightDevice, MAC.right]]);
    const namespace: NamespaceId = namespaceId(bench.world, 'node');
    const ranges = partitionSources(buildWorld(makeSnapshot(bench.complete({ rules: draft.rules, stimuli: [] }))), { namespace, protocol: 'udp', destination, devices: [...devices.keys()] });
    const decided = ranges.filter(({ result }) => result !== 'depends');
    const some = fc.sample(fc.shuffledSubarray(decided, { minLength: Math.min(decided.length, MAX_RANGES), maxLength: Math.min(decided.length, MAX_RANGES) }), { seed, numRuns: 1 })[0] ?? [];
    const wrong: string[] = [];
    let tried = 0;
    for (const [index, range] of some.entries()) {
      for (const source of new Set([range.first, middleOf(range), range.last].filter((address) => isV4(address) === isIpv4))) {
        const sourcePort = toPortNumber(SOURCE_PORTS[index % SOURCE_PORTS.length] ?? 1);
        const stimulus: Stimulus = {
          kind: 'arrive', namespace: 'node', device: range.device,
          packet: { source, destination: destination.address, transport: { kind: 'udp', sourcePort, destinationPort: destination.port }, payload: 8, macSource: devices.get(range.device) ?? MAC.left },
        };
        // Each source has the tables of connections for itself.
        const [observation] = await bench.observe({ rules: draft.rules, stimuli: [stimulus] });
        const reached = (observation?.received.length ?? 0) > 0;
        tried += 1;
        if (reached !== (range.result === 'reaches')) {
          wrong.push(`${backend}, seed ${seed}: a datagram from ${source}:${sourcePort} at ${range.device} to ${destination.address}:${destination.port} ${reached ? 'reaches a socket' : 'reaches none'}; the simulator says ${range.result}: ${range.reason}\n${draft.rules.map(({ ipv4, ipv6 }) => (isIpv4 ? ipv4 : ipv6)).join('\n')}`);
        }
      }
    }
    return { ranges: ranges.length, undecided: ranges.length - decided.length, tried, wrong };
  } catch (error) {
    if (isRefusal(error)) {
      return null;
    }
    throw error;
  } finally {
    bench.dispose();
  }
}

function middleOf({ first, last }: SourceRange): IpAddress {
  const [low, high] = [toNumber(first), toNumber(last)];
  const { length } = ipAddressBytes(first);
  const middle = low + (high - low) / 2n;
  return formatIpAddress(Uint8Array.from({ length }, (_, index) => Number((middle >> BigInt((length - 1 - index) * 8)) & 0xffn)));
}

function toNumber(address: IpAddress): bigint {
  return ipAddressBytes(address).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}
