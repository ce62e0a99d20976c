import type { DecisionReason } from '../../agent/protocol/acceleration.ts';

/** What each decision of the programs means, as a sentence for a trace. */
export const DECISION_TEXTS: Readonly<Record<DecisionReason, string>> = {
  redirected_to_outbound: 'An application of an enrolled pod connects to another address: connect(2) goes to its own sidecar instead, over loopback.',
  redirected_to_inbound: 'A sidecar connects to an address of an enrolled pod: connect(2) goes straight to the sidecar there.',
  sidecar_to_application: 'A sidecar connects to the application of its own pod: the destination stays, and the connection is accelerated.',
  passed_loopback: 'The destination is a loopback address: the connection is left alone.',
  passed_own_address: 'An application connects to an address of its own pod: the connection is left to iptables.',
  passed_excluded_port: 'The mesh profile leaves this port alone: the connection is left to iptables.',
  passed_peer_not_enrolled: 'A sidecar connects to an address of no enrolled pod: the connection is left to iptables.',
  passed_not_configured: 'The addresses of the pod are not known: the connection is left to iptables.',
  passed_bind_failed: 'The source address could not be set: the connection is left to iptables.',
  passed_switched_off: 'Acceleration is switched off: the connection is left to iptables.',
  failed_storage: 'There is no memory for socket storage: the connection is left to iptables.',
  enrolled_active: 'The connecting socket is put into the sockhash: its messages can be redirected from now on.',
  enrolled_passive: 'The accepting socket is put into the sockhash: its messages can be redirected from now on.',
  enrol_failed: 'The sockhash refused the socket: its messages go through TCP.',
  connections_full: 'The map of connections is full: the connection is not accelerated.',
  message_redirected: 'The other end is in the sockhash: the message goes straight into its receive queue and meets no hook of netfilter.',
  message_passed_peer_missing: 'The other end is not in the sockhash: this message and all later ones of this direction go through TCP.',
  message_passed_unread_limit: 'Too much is unread at the other end: this message and all later ones of this direction go through TCP, which has back-pressure.',
  message_passed_switched_off: 'Acceleration is switched off: this message and all later ones of this direction go through TCP.',
  answered_original_destination: 'The programs know what connect(2) asked for and answer SO_ORIGINAL_DST with it, in place of conntrack.',
  answered_peer_name: 'The programs answer getpeername with the address that connect(2) asked for, as under NAT.',
  connection_closed: 'The connecting socket closed: what was kept about the connection is deleted.',
};
