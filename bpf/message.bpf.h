/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * Messages of enrolled sockets. A reader takes redirected messages before those that came through TCP
 * (net/ipv4/tcp_bpf.c, tcp_bpf_recvmsg): so once a message of a direction went through TCP, all later ones do.
 */
#ifndef MESHPATH_MESSAGE_BPF_H
#define MESHPATH_MESSAGE_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "decisions.bpf.h"
#include "maps.bpf.h"

/* Bytes of a direction that goes on over TCP for which the program is not run again. */
#define PASSED_BYTES (1 << 20)

/* Gives the connection of a socket, or null where the map has another one by that key, or none. */
static __always_inline struct connection *get_connection(const struct socket_state *state)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &state->connection);
	__u64 cookie;

	if (!connection)
		return 0;
	cookie = state->is_connecting ? connection->connecting_cookie : connection->accepting_cookie;
	return cookie == state->cookie ? connection : 0;
}

/* Says whether one of the pods of a connection, or the connection itself, has been stopped. */
static __always_inline bool is_stopped(const struct connection *connection)
{
	struct control *switches = get_control();

	if (connection->is_switched_off)
		return true;
	return switches && switches->stopped_pods &&
	       (bpf_map_lookup_elem(&stopped_pods, &connection->connecting_cgroup_id) ||
		bpf_map_lookup_elem(&stopped_pods, &connection->accepting_cgroup_id));
}

/* Decides for one message; the first that is not DECISION_MESSAGE_REDIRECTED decides for all that follow. */
static __always_inline enum decision_reason send_message(struct sk_msg_md *msg, struct socket_state *state)
{
	struct connection *connection = get_connection(state);
	bool is_connecting = state->is_connecting;
	__u64 *unread;

	/* Whoever answers has read: this is not exact, but it bounds what can pile up. */
	if (connection) {
		if (is_connecting)
			connection->unread_by_connecting = 0;
		else
			connection->unread_by_accepting = 0;
	}
	if (state->is_passing)
		return state->pass_reason;
	if (is_switched_off() || (connection && is_stopped(connection)))
		return DECISION_MESSAGE_PASSED_SWITCHED_OFF;
	if (!connection || !(is_connecting ? connection->is_accepting_enrolled : connection->is_connecting_enrolled))
		return DECISION_MESSAGE_PASSED_PEER_MISSING;
	unread = is_connecting ? &connection->unread_by_accepting : &connection->unread_by_connecting;
	if (profile.unread_limit && *unread + msg->size > profile.unread_limit)
		return DECISION_MESSAGE_PASSED_UNREAD_LIMIT;
	if (bpf_msg_redirect_hash(msg, &sockets, &state->peer, BPF_F_INGRESS) != SK_PASS)
		return DECISION_MESSAGE_PASSED_PEER_MISSING;
	*unread += msg->size;
	if (is_connecting)
		connection->redirected_by_connecting += msg->size;
	else
		connection->redirected_by_accepting += msg->size;
	return DECISION_MESSAGE_REDIRECTED;
}

/* Writes down what messages of this side meet from now on, for whoever asks why. */
static __always_inline void note_messages(const struct socket_state *state, enum decision_reason reason)
{
	struct connection *connection = get_connection(state);

	if (!connection)
		return;
	if (state->is_connecting)
		connection->connecting_messages = reason;
	else
		connection->accepting_messages = reason;
}

SEC("sk_msg")
int meshpath_sk_msg(struct sk_msg_md *msg)
{
	struct decision_event event = { .hook = DECISION_HOOK_SK_MSG };
	struct socket_state *state;
	struct bpf_sock *sk = msg->sk;
	enum decision_reason reason;
	bool is_news;

	if (!sk)
		return SK_PASS;
	state = bpf_sk_storage_get(&socket_state, sk, 0, 0);
	if (!state)
		return SK_PASS;
	reason = send_message(msg, state);
	count_decision(reason);
	if (reason == DECISION_MESSAGE_REDIRECTED) {
		is_news = !state->is_redirecting;
		state->is_redirecting = true;
	} else {
		is_news = !state->is_passing;
		state->is_passing = true;
		state->pass_reason = reason;
		/* The kernel need not ask again for each message; from time to time, since each run also says that this side has read. */
		bpf_msg_apply_bytes(msg, PASSED_BYTES);
	}
	if (is_news) {
		note_messages(state, reason);
		event.reason = reason;
		event.bytes = msg->size;
		describe_connected_socket(&event, state);
		send_event(&event);
	}
	return SK_PASS;
}

#endif
