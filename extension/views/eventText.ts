import type { DecisionEvent, DecisionReason } from '../../agent/protocol/acceleration.ts';
import type { Endpoint } from '../../agent/protocol/scalars.ts';

const REASON_TEXTS: Readonly<Record<DecisionReason, string>> = {
  redirected_to_outbound: 'the connection now goes to the own sidecar',
  redirected_to_inbound: "the connection now goes to the peer's sidecar",
  sidecar_to_application: 'the sidecar connects to its application: accelerated as it is',
  passed_loopback: 'to loopback: left alone',
  passed_own_address: 'to the own pod: left alone',
  passed_excluded_port: 'the profile leaves this port alone',
  passed_excluded_range: 'the profile leaves this range of addresses alone',
  passed_not_included: 'the profile takes other ports or addresses only',
  passed_link_local: 'to a link-local address: left alone',
  passed_peer_not_enrolled: 'the peer is no accelerated pod: left alone',
  passed_not_configured: 'the addresses of the pod are not known: left alone',
  passed_bind_failed: 'the source address could not be set: left alone',
  passed_switched_off: 'acceleration is switched off: left alone',
  failed_storage: 'no memory for the state of the socket: left alone',
  enrolled_active: 'the connecting socket is ready to jump',
  enrolled_passive: 'the accepting socket is ready to jump',
  enrol_failed: 'the sockhash refused the socket: plain TCP',
  connections_full: 'the connections map is full: plain TCP',
  message_redirected: 'messages of this direction now jump to the peer socket',
  message_passed_peer_missing: 'the peer socket is not there: plain TCP for this direction',
  message_passed_unread_limit: 'too much unread data: plain TCP for this direction',
  message_passed_switched_off: 'switched off: plain TCP for this direction',
  answered_original_destination: 'SO_ORIGINAL_DST was answered',
  answered_peer_name: 'the address that was asked for was answered as the peer',
  redirected_to_resolver: 'the question now goes to the resolver of the own sidecar',
  question_passed_sidecar: 'a question of the sidecar itself: left alone',
  question_passed_older_socket: 'the socket is older than the acceleration: left alone',
  question_passed_no_resolver: 'the sidecar does not answer DNS: left alone',
  question_passed_ambiguous: 'too many resolvers for one socket: left alone',
  question_passed_full: 'the map of questions is full: left alone',
  answered_resolver: 'the answer was told to be from the resolver that was asked',
  answered_own_name: 'the address that routing would have picked was answered as the own',
  connection_closed: 'closed, state deleted',
};

function spell(endpoint: Endpoint): string {
  return endpoint.address.includes(':') ? `[${endpoint.address}]:${endpoint.port}` : `${endpoint.address}:${endpoint.port}`;
}

/** Gives an event as one line: time since boot in seconds, hook, tuple, and what was decided in words. */
export function spellEvent(event: DecisionEvent): string {
  const nanoseconds = BigInt(event.bootNanoseconds);
  const seconds = `${nanoseconds / 1_000_000_000n}.${String((nanoseconds / 1_000n) % 1_000_000n).padStart(6, '0')}`;
  const notes = [
    event.original === null ? '' : `original ${spell(event.original)}`,
    event.bytes > 0 ? `${event.bytes} bytes` : '',
    event.errno > 0 ? `errno ${event.errno}` : '',
    event.uid === null ? '' : `user ${event.uid}`,
  ].filter((note) => note !== '');
  const tuple = `${spell(event.local)} → ${spell(event.remote)}`;
  return `${seconds.padStart(14)}  ${event.hook.padEnd(12)}  ${tuple.padEnd(42)}  ${REASON_TEXTS[event.reason]}${notes.length === 0 ? '' : ` (${notes.join(', ')})`}`;
}
