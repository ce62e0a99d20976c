/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* What sockets are told about their other end: the same as under iptables' REDIRECT. */
#ifndef MESHPATH_NAMES_BPF_H
#define MESHPATH_NAMES_BPF_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "connections.bpf.h"
#include "decisions.bpf.h"
#include "maps.bpf.h"

#define SOL_IP 0
#define SO_ORIGINAL_DST 80 /* linux/netfilter_ipv4.h */
#define SOCKOPT_BYTES_MAX 4096

/* Gives the state of a socket whose connect(2), or that of its peer, was rewritten to IPv4; else null. */
static __always_inline struct socket_state *get_rewritten(struct bpf_sock *sk)
{
	struct socket_state *state = bpf_sk_storage_get(&socket_state, sk, 0, 0);

	return state && state->is_rewritten && is_ipv4(&state->original.address) ? state : 0;
}

/* Counts an answer, and tells of the first of each socket. */
static __always_inline void report_answer(struct socket_state *state, enum decision_hook hook,
					  enum decision_reason reason)
{
	struct decision_event event = { .hook = hook, .reason = reason };

	count_decision(reason);
	if (state->is_answered)
		return;
	state->is_answered = true;
	describe_connected_socket(&event, state);
	send_event(&event);
}

SEC("cgroup/getsockopt")
int meshpath_getsockopt(struct bpf_sockopt *ctx)
{
	struct sockaddr_in *answer = ctx->optval;
	struct socket_state *state;

	if (CONTEXT(ctx->level) != SOL_IP || CONTEXT(ctx->optname) != SO_ORIGINAL_DST) {
		/* The kernel shows only the first page: 0 leaves what it has written as it is. */
		if (CONTEXT(ctx->optlen) > SOCKOPT_BYTES_MAX)
			CONTEXT(ctx->optlen) = 0;
		return 1;
	}
	if (!ctx->sk || (void *)(answer + 1) > ctx->optval_end)
		return 1;
	state = get_rewritten(ctx->sk);
	if (!state)
		return 1;
	__builtin_memset(answer, 0, sizeof(*answer));
	answer->sin_family = AF_INET;
	answer->sin_port = state->original.port;
	answer->sin_addr.s_addr = state->original.address.word[3];
	CONTEXT(ctx->optlen) = sizeof(*answer);
	CONTEXT(ctx->retval) = 0;
	settle_accepting(state);
	report_answer(state, DECISION_HOOK_GETSOCKOPT, DECISION_ANSWERED_ORIGINAL_DESTINATION);
	return 1;
}

SEC("cgroup/getpeername4")
int meshpath_getpeername4(struct bpf_sock_addr *ctx)
{
	struct socket_state *state;

	if (!ctx->sk)
		return 1;
	state = get_rewritten(ctx->sk);
	/* An accepted socket's peer is who it is. */
	if (!state || !state->is_connecting)
		return 1;
	CONTEXT(ctx->user_ip4) = state->original.address.word[3];
	CONTEXT(ctx->user_port) = state->original.port;
	report_answer(state, DECISION_HOOK_GETPEERNAME4, DECISION_ANSWERED_PEER_NAME);
	return 1;
}

#endif
