import { setTimeout as delay } from 'node:timers/promises';
import type { DoctorCheckId } from '../../protocol/doctorChecks.ts';
import type { DecisionReason } from '../../protocol/acceleration.ts';
import type { Endpoint } from '../../protocol/scalars.ts';
import { ELSEWHERE, endpoint, POD_ADDRESSES, SCRATCH_PROFILE, SIDECAR_GID } from './scratchPods.ts';
import type { ScratchConnection, ScratchPods } from './scratchPods.ts';
import { asExpected, breakage, limitation } from './selfTest.ts';
import type { SelfTestResult } from './selfTest.ts';

/** A test of the programs that are attached to cgroups. Throws a MeshpathError where it cannot be made. */
export interface PodTest {
  readonly id: DoctorCheckId;
  readonly run: (pods: ScratchPods) => SelfTestResult | Promise<SelfTestResult>;
}

const OUTBOUND = { ipv4: endpoint('127.0.0.1', SCRATCH_PROFILE.outboundPort), ipv6: endpoint('::1', SCRATCH_PROFILE.outboundPort) } as const;
const INBOUND = { address: POD_ADDRESSES.b[0], port: SCRATCH_PROFILE.inboundPort };
const SERVICE = { address: POD_ADDRESSES.b[0], port: endpoint('0.0.0.0', 8080).port };
const REUSED_PORT = endpoint('0.0.0.0', 41_077).port;
const REQUEST = 'what the one asks';
const ANSWER = 'and the other says';
const SETTLE_MILLISECONDS = 20;
const NO_IPV6 = ' There is no IPv6 here.';

type Family = 'ipv4' | 'ipv6';

/** Whether both ends of a connection come into the sockhash, and its messages go from socket to socket. */
const enrolmentTest: PodTest = {
  id: 'enrolment',
  run: (pods) => {
    const inPod = countRedirected(pods, () => connectToSidecar(pods, 'ipv4'));
    pods.closeSockets();
    const betweenPods = countRedirected(pods, () => connectToPod(pods));
    const found = `Messages went from socket to socket ${tellWhere(inPod, betweenPods)}.`;
    return inPod && betweenPods
      ? asExpected(found)
      : limitation(
          found,
          `Connections ${inPod ? 'between pods' : betweenPods ? 'inside pods' : 'of pods'} are redirected to sidecars without iptables, but their bytes go through TCP.`,
          'This kernel, or another owner of socket maps, keeps sockets out of the sockhash.',
          'Look at the other users of socket maps. Nothing breaks: it is slower than it could be.',
        );
  },
};

/** Whether a sidecar learns where its client wanted to go, without conntrack. */
const originalDestinationTest: PodTest = {
  id: 'original-destination',
  run: (pods) => {
    const wrong = familiesOf(pods).flatMap((family) => {
      const { accepting } = connectToSidecar(pods, family);
      const answer = pods.readOriginalDestination(accepting, family);
      pods.closeSockets();
      return isSame(answer, ELSEWHERE[family]) ? [] : [`for ${tell(ELSEWHERE[family])} it says ${answer === null ? 'nothing' : tell(answer)}`];
    });
    return wrong.length === 0
      ? asExpected(`SO_ORIGINAL_DST told the sidecar where its client had wanted to go${pods.hasIpv6 ? ', over IPv4 and IPv6' : ''}.${pods.hasIpv6 ? '' : NO_IPV6}`)
      : breakage('SO_ORIGINAL_DST does not tell sidecars where their clients wanted to go.', 'With this kernel sidecars would send connections to wrong places.', `SO_ORIGINAL_DST: ${wrong.join('; ')}.`);
  },
};

/** Whether an application sees the peer that it connected to, and not its sidecar. */
const peerNameTest: PodTest = {
  id: 'peer-name',
  run: (pods) => {
    const wrong = familiesOf(pods).flatMap((family) => {
      const { connecting } = connectToSidecar(pods, family);
      const peer = pods.readPeer(connecting);
      pods.closeSockets();
      return isSame(peer, ELSEWHERE[family]) ? [] : [`${tell(peer)} instead of ${tell(ELSEWHERE[family])}`];
    });
    return wrong.length === 0
      ? asExpected(`getpeername gave applications the address that they had connected to${pods.hasIpv6 ? ', over IPv4 and IPv6' : ''}.${pods.hasIpv6 ? '' : NO_IPV6}`)
      : limitation(
          `getpeername gave ${wrong.join(' and ')}.`,
          'Applications that ask who their peer is (logs, FTP, some database drivers) see the address of their sidecar.',
          'The hooks for getpeername do not answer on this kernel.',
          'Do not accelerate pods whose programs depend on it.',
        );
  },
};

/** Whether the programs know who made a socket, which is what rules ask for, whoever connects it. */
const socketOwnerTest: PodTest = {
  id: 'socket-owner',
  run: (pods) => {
    const before = countOf(pods, 'redirected_to_outbound');
    const listener = pods.listen('a', OUTBOUND.ipv4);
    const ofSidecar = asSidecar(() => pods.makeSocket('ipv4'));
    // There is no route: only a connection that is redirected arrives.
    const passed = pods.tryConnect(ofSidecar, ELSEWHERE.ipv4) < 0;
    const ofApplication = pods.makeSocket('ipv4');
    const redirected = asSidecar(() => pods.tryConnect(ofApplication, ELSEWHERE.ipv4)) === 0;
    if (redirected) {
      pods.accept(listener);
    }
    const count = countOf(pods, 'redirected_to_outbound') - before;
    return passed && redirected && count === 1n
      ? asExpected('Sockets are told apart by who made them: that of the sidecar was left alone, that of the application was redirected.')
      : breakage(
          'The programs take sockets of sidecars for those of applications, or the other way round.',
          'With this kernel connections of sidecars would come back to them for ever, or pass by the mesh.',
          `The connection of a socket that the sidecar made was ${passed ? 'left alone' : 'redirected'}, that of one that the application made was ${redirected ? 'redirected' : 'left alone'}.`,
        );
  },
};

/**
 * Whether a new connection of the same two addresses and ports leaves alone what waits in the old one. In a sockhash a new entry drops
 * the old one with its bytes; Meshpath's keys name the connecting socket, so that no entry is replaced.
 */
const reusedAddressesTest: PodTest = {
  id: 'reused-addresses',
  run: async (pods) => {
    const listener = pods.listen('b', INBOUND);
    const old = connectToPod(pods, listener, REUSED_PORT);
    pods.send(old.connecting, REQUEST);
    const request = pods.receiveAll(old.accepting, REQUEST.length);
    pods.send(old.accepting, ANSWER);
    pods.closeSocket(old.accepting);
    await delay(SETTLE_MILLISECONDS);
    pods.shutdown(old.connecting);
    await delay(SETTLE_MILLISECONDS);
    const next = connectToPod(pods, listener, REUSED_PORT);
    pods.send(next.connecting, ANSWER);
    pods.send(next.accepting, REQUEST);
    const answer = pods.receiveAll(old.connecting, ANSWER.length);
    const newOnes = [pods.receiveAll(next.accepting, ANSWER.length), pods.receiveAll(next.connecting, REQUEST.length)];
    return request === REQUEST && answer === ANSWER && newOnes[0] === ANSWER && newOnes[1] === REQUEST
      ? asExpected('A new connection of the same addresses and ports left the unread bytes of the old one alone.')
      : breakage(
          'A new connection of the same addresses and ports costs the old one its unread bytes.',
          'With this kernel acceleration would cut off the end of answers where ports are used again quickly.',
          `Of '${ANSWER}' the old connection had '${answer}'; the new one had '${newOnes.join("' and '")}'.`,
        );
  },
};

/** All of them, in the order of the report. */
export const POD_TESTS: readonly PodTest[] = [enrolmentTest, originalDestinationTest, peerNameTest, socketOwnerTest, reusedAddressesTest];

/** An application of pod a connects to somebody elsewhere, and is redirected to its sidecar. */
function connectToSidecar(pods: ScratchPods, family: Family): ScratchConnection {
  const listener = pods.listen('a', OUTBOUND[family]);
  const connecting = pods.makeSocket(family);
  pods.connect(connecting, ELSEWHERE[family]);
  return { connecting, accepting: pods.accept(listener) };
}

/** The sidecar of pod a connects to pod b, and is redirected to the sidecar there. */
function connectToPod(pods: ScratchPods, listening?: number, port = endpoint('0.0.0.0', 0).port): ScratchConnection {
  const listener = listening ?? pods.listen('b', INBOUND);
  pods.enter('a');
  const connecting = asSidecar(() => pods.makeSocket('ipv4'));
  pods.bind(connecting, { address: POD_ADDRESSES.a[0], port });
  pods.connect(connecting, SERVICE);
  return { connecting, accepting: pods.accept(listener) };
}

function countRedirected(pods: ScratchPods, connect: () => ScratchConnection): boolean {
  const before = countOf(pods, 'message_redirected');
  const { connecting, accepting } = connect();
  pods.send(connecting, REQUEST);
  const request = pods.receiveAll(accepting, REQUEST.length);
  pods.send(accepting, ANSWER);
  const answer = pods.receiveAll(connecting, ANSWER.length);
  return request === REQUEST && answer === ANSWER && countOf(pods, 'message_redirected') - before === 2n;
}

/** Does something as the group of the sidecar. */
function asSidecar<Value>(act: () => Value): Value {
  const own = process.getgid?.() ?? 0;
  process.setgid?.(SIDECAR_GID);
  try {
    return act();
  } finally {
    process.setgid?.(own);
  }
}

function countOf(pods: ScratchPods, reason: DecisionReason): bigint {
  return BigInt(pods.countDecisions()[reason]);
}

function familiesOf({ hasIpv6 }: ScratchPods): readonly Family[] {
  return hasIpv6 ? ['ipv4', 'ipv6'] : ['ipv4'];
}

function isSame(found: Endpoint | null, expected: Endpoint): boolean {
  return found?.address === expected.address && found.port === expected.port;
}

function tell({ address, port }: Endpoint): string {
  return `${address} port ${port}`;
}

function tellWhere(inPod: boolean, betweenPods: boolean): string {
  if (inPod && betweenPods) {
    return 'inside a pod and between pods';
  }
  return inPod ? 'inside a pod, and not between pods' : betweenPods ? 'between pods, and not inside a pod' : 'nowhere';
}
