import fc from 'fast-check';
import { isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { PacketDraft, TransportDraft } from '../../simulator/netfilter/packetDraft.ts';
import { PORTS, SOCKET_MARKS, SOURCE_PORTS, ruleSetText } from './generateRules.ts';
import type { WorldChoices } from './generateWorld.ts';
import { ELSEWHERE, FAR, LEFT, MAC, NODE, RIGHT, UIDS } from './generateWorld.ts';
import type { ConversationStep, JudgeClient, JudgeRules, Stimulus } from './judgeCase.ts';

/** Random cases: rules of the node (and now and then of those beside it) and what is done. */

type Family = 'ipv4' | 'ipv6';

const ADDRESSES = {
  ipv4: {
    left: [LEFT.ipv4, LEFT.ipv4, LEFT.other, ELSEWHERE.ipv4],
    right: [RIGHT.ipv4, RIGHT.ipv4, RIGHT.other],
    node: [NODE.left4, NODE.right4, NODE.lan4],
    away: [ELSEWHERE.ipv4, '10.4.0.7', '10.9.0.9', FAR.ipv4],
    /** Only for packets of the node itself. */
    denied: ['10.5.0.7'],
    many: ['255.255.255.255', '10.1.0.255', '10.2.0.255', '224.0.0.1', '224.0.0.251', '239.255.255.250'],
    /** What has no address yet asks for one. */
    nobody: ['0.0.0.0'],
    loopback: '127.0.0.1',
  },
  ipv6: {
    left: [LEFT.ipv6],
    right: [RIGHT.ipv6],
    node: [NODE.left6, NODE.right6, NODE.lan6],
    away: [ELSEWHERE.ipv6, 'fd09::9', FAR.ipv6],
    denied: [],
    many: ['ff02::1', 'ff02::2', 'ff02::fb', 'ff02::1:ff00:1', 'ff05::c', 'ff01::1'],
    nobody: [],
    loopback: '::1',
  },
} as const;

const pick = (...values: readonly string[]): fc.Arbitrary<IpAddress> => fc.constantFrom(...values).map(toIpAddress);
const anyPort = fc.constantFrom(...PORTS, 80, 8080, 53, 81).map(toPortNumber);
const anySourcePort = fc.constantFrom(...SOURCE_PORTS).map(toPortNumber);
const user = fc.constantFrom(...UIDS).map((uid) => ({ uid, gid: uid }));
type TcpFlags = Extract<TransportDraft, { kind: 'tcp' }>['flags'];
const tcpFlags = fc.oneof(
  { weight: 6, arbitrary: fc.constant<TcpFlags>(['SYN']) },
  { weight: 2, arbitrary: fc.constant<TcpFlags>(['ACK']) },
  { weight: 1, arbitrary: fc.constantFrom<TcpFlags>(['SYN', 'ACK'], ['FIN', 'ACK'], ['PSH', 'ACK'], ['RST'], ['RST', 'ACK'], [], ['FIN', 'PSH', 'URG'], ['SYN', 'FIN']) },
);

function transport(family: Family): fc.Arbitrary<TransportDraft> {
  const icmpTypes = family === 'ipv4' ? [[8, 0], [8, 0], [8, 0], [0, 0], [13, 0]] : [[128, 0], [128, 0], [129, 0]];
  return fc.oneof(
    { weight: 7, arbitrary: fc.record({ kind: fc.constant('tcp' as const), sourcePort: anySourcePort, destinationPort: anyPort, flags: tcpFlags }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('udp' as const), sourcePort: anySourcePort, destinationPort: anyPort }) },
    { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...icmpTypes), fc.constantFrom(7, 8)).map(([[type = 0, code = 0], identifier]) => ({ kind: 'icmp' as const, type, code, identifier })) },
    { weight: 1, arbitrary: fc.constant({ kind: 'other' as const, protocol: 47 }) },
  );
}

function packet(family: Family, sources: readonly string[], destinations: readonly string[]): fc.Arbitrary<PacketDraft> {
  return fc
    .record({ source: pick(...sources), destination: pick(...destinations), transport: transport(family), ttl: fc.constantFrom(64, 64, 64, 64, 64, 3, 2, 1), tos: fc.constantFrom(0, 0, 0, 0x10), payload: fc.constantFrom(0, 8, 20, 100) })
    .map((draft) => ({ ...draft, payload: draft.transport.kind === 'other' ? Math.max(8, draft.payload) : draft.payload }));
}

function stimulus(choices: WorldChoices): fc.Arbitrary<Stimulus> {
  return fc.constantFrom<Family>('ipv4', 'ipv4', 'ipv6').chain((family) => {
    const { left, right, node, away, denied, many, nobody, loopback } = ADDRESSES[family];
    const anywhere = [...left, ...right, ...right, ...node, ...node, ...away, loopback];
    const arrive = (device: string, macSource: string, sources: readonly string[], destinations: readonly string[]): fc.Arbitrary<Stimulus> =>
      packet(family, sources, destinations).map((draft) => ({ kind: 'arrive', namespace: 'node', device, packet: { ...draft, macSource } }));
    return fc.oneof(
      { weight: 6, arbitrary: arrive(choices.leftDevice, MAC.left, [...left, ...left, RIGHT.ipv4, loopback].filter((text) => isIpv4(toIpAddress(text)) === (family === 'ipv4')), [...right, ...right, ...node, ...away, loopback]) },
      { weight: 1, arbitrary: arrive(choices.leftDevice, MAC.left, [...left, ...nobody], many) },
      { weight: 3, arbitrary: arrive(choices.rightDevice, MAC.right, [...right, ...away], [...left, ...node]) },
      { weight: 4, arbitrary: fc.record({ kind: fc.constant('send' as const), namespace: fc.constant('node'), user, mark: fc.constantFrom(...SOCKET_MARKS), packet: packet(family, [...node, loopback], [...anywhere, ...denied]) }) },
      { weight: 4, arbitrary: fc.tuple(client(choices, family, anywhere), fc.option(fc.constantFrom(...CONVERSATIONS), { nil: undefined })).map(([ends, then]) => ({ kind: 'connect' as const, ...ends, ...(then === undefined ? {} : { then }) })) },
      { weight: 3, arbitrary: fc.tuple(client(choices, family, anywhere), fc.constantFrom<'udp' | 'icmp'>('udp', 'udp', 'udp', 'icmp'), fc.boolean()).map(([ends, protocol, isAnswered]) => ({ kind: 'datagram' as const, ...ends, protocol, isAnswered })) },
    );
  });
}

/** What the two ends of a connection do once it is there. Nobody sends data after an answer: acknowledgements then wait for more. */
const CONVERSATIONS: readonly (readonly ConversationStep[])[] = [
  ['send'], ['send', 'answer'], ['finClient', 'finServer'], ['finServer', 'finClient'], ['send', 'answer', 'finServer', 'finClient'], ['resetClient'], ['send', 'resetServer'], ['answer', 'resetClient'],
  ['finClient', 'answer', 'finServer'], ['send', 'send', 'answer', 'finClient', 'finServer'], ['finClient', 'resetServer'],
];

/** A socket somewhere; few are bound to an address or a device. */
function client({ leftDevice, rightDevice }: WorldChoices, family: Family, destinations: readonly string[]): fc.Arbitrary<JudgeClient> {
  const { left, right, node, loopback } = ADDRESSES[family];
  return fc.constantFrom('node', 'node', 'left', 'left', 'right').chain((namespace) => {
    const own = namespace === 'node' ? [...node, loopback] : namespace === 'left' ? left.filter((address) => address !== ELSEWHERE.ipv4) : right;
    const devices = namespace === 'node' ? [leftDevice, rightDevice, 'lo'] : ['wire0'];
    return fc
      .tuple(
        fc.record({ user, mark: fc.constantFrom(...SOCKET_MARKS), port: anySourcePort, destination: fc.record({ address: pick(...destinations), port: anyPort }) }),
        fc.oneof({ weight: 6, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: pick(...own) }),
        fc.oneof({ weight: 8, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: fc.constantFrom(...devices) }),
      )
      .map(([rest, address, device]) => ({ namespace, ...rest, address, ...(device === undefined ? {} : { device }) }));
  });
}

/** What follows on a stimulus: more packets of it, its answer, an error about it. */
function followUps(first: Stimulus, choices: WorldChoices): fc.Arbitrary<readonly Stimulus[]> {
  if (first.kind !== 'arrive') {
    return fc.constant([first]);
  }
  const { packet: sent } = first;
  const backDevice = first.device === choices.leftDevice ? choices.rightDevice : choices.leftDevice;
  const backMac = first.device === choices.leftDevice ? MAC.right : MAC.left;
  const answer: Stimulus = { ...first, device: backDevice, packet: { ...reverse(sent), macSource: backMac } };
  const again: Stimulus = { ...first, packet: sent.transport.kind === 'tcp' ? { ...sent, transport: { ...sent.transport, flags: ['ACK'] } } : sent };
  const error: Stimulus = { ...first, device: backDevice, packet: { ...errorAbout(sent), macSource: backMac } };
  const last: Stimulus = { ...first, packet: sent.transport.kind === 'tcp' ? { ...sent, transport: { ...sent.transport, flags: ['FIN', 'ACK'] } } : sent };
  return fc.oneof(
    { weight: 6, arbitrary: fc.constant([first]) },
    { weight: 1, arbitrary: fc.constant([first, answer]) },
    { weight: 1, arbitrary: fc.constant([first, answer, again]) },
    { weight: 1, arbitrary: fc.constant([first, again]) },
    { weight: 1, arbitrary: fc.constant([first, error]) },
    { weight: 1, arbitrary: fc.constant([first, answer, again, last, { ...answer, packet: { ...answer.packet, ...(answer.packet.transport.kind === 'tcp' ? { transport: { ...answer.packet.transport, flags: ['FIN', 'ACK'] as const } } : {}) } }]) },
  );
}

/** The packet that answers another. */
export function reverse(sent: PacketDraft): PacketDraft {
  const back = { ...sent, source: sent.destination, destination: sent.source, ttl: 64 };
  const { transport: original } = sent;
  switch (original.kind) {
    case 'tcp':
      return { ...back, transport: { ...original, sourcePort: original.destinationPort, destinationPort: original.sourcePort, flags: original.flags.includes('SYN') ? ['SYN', 'ACK'] : ['ACK'] } };
    case 'udp':
      return { ...back, transport: { ...original, sourcePort: original.destinationPort, destinationPort: original.sourcePort } };
    case 'icmp':
      return { ...back, transport: { ...original, type: original.type === 8 ? 0 : original.type === 128 ? 129 : original.type } };
    case 'other':
      return back;
  }
}

function errorAbout(sent: PacketDraft): PacketDraft {
  const isV4 = isIpv4(sent.source);
  const { macSource, ...about } = sent;
  return {
    source: sent.destination,
    destination: sent.source,
    ...(macSource === undefined ? {} : { macSource }),
    transport: { kind: 'icmp', type: isV4 ? 3 : 1, code: isV4 ? 1 : 3, about },
  };
}

/** The part of a case that changes while a world stays. */
export interface CaseDraft {
  readonly rules: readonly JudgeRules[];
  readonly stimuli: readonly Stimulus[];
}

/** Random rules and stimuli for a world. */
export function caseDraft(choices: WorldChoices): fc.Arbitrary<CaseDraft> {
  const beside = fc.oneof({ weight: 9, arbitrary: fc.constant('') }, { weight: 1, arbitrary: ruleSetText('ipv4') });
  return fc
    .record({
      node4: ruleSetText('ipv4'),
      node6: ruleSetText('ipv6'),
      right4: beside,
      groups: fc.array(stimulus(choices).chain((first) => followUps(first, choices)), { minLength: 6, maxLength: 14 }),
    })
    .map(({ node4, node6, right4, groups }) => ({
      rules: [{ namespace: 'node', ipv4: node4, ipv6: node6 }, ...(right4 === '' ? [] : [{ namespace: 'right', ipv4: right4, ipv6: '' }])],
      stimuli: groups.flat(),
    }));
}
