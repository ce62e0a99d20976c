/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* What sockets are told about their other end: the same as under iptables' REDIRECT. */
#ifndef MESHPATH_NAMES_BPF_H
#define MESHPATH_NAMES_BPF_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "connections.bpf.h"
#include "datagram.bpf.h"
#include "decisions.bpf.h"
#include "maps.bpf.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* linux/netfilter_ipv4.h */
#define IP6T_SO_ORIGINAL_DST 80 /* linux/netfilter_ipv6/ip6_tables.h */
#define SOCKOPT_BYTES_MAX 4096

/* Gives the state of a socket whose connect(2), or that of its peer, was rewritten; else null. */
static __always_inline struct socket_state *get_rewritten(struct bpf_sock *sk)
{
	struct socket_state *state = sk ? bpf_sk_storage_get(&socket_state, sk, 0, 0) : 0;

	return state && state->is_rewritten ? state : 0;
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

/* Of its IPv6 connections an IPv6 socket is asked at SOL_IPV6, of its IPv4 connections at SOL_IP like any other. */
static __always_inline bool is_original_destination(__u32 level, __u32 option)
{
	return (level == SOL_IP && option == SO_ORIGINAL_DST) || (level == SOL_IPV6 && option == IP6T_SO_ORIGINAL_DST);
}

SEC("cgroup/getsockopt")
int meshpath_getsockopt(struct bpf_sockopt *ctx)
{
	struct sockaddr_in6 *ipv6 = ctx->optval;
	struct sockaddr_in *ipv4 = ctx->optval;
	struct socket_state *state;

	if (!is_original_destination(CONTEXT(ctx->level), CONTEXT(ctx->optname))) {
		/* The kernel shows only the first page: 0 leaves what it has written as it is. */
		if (CONTEXT(ctx->optlen) > SOCKOPT_BYTES_MAX)
			CONTEXT(ctx->optlen) = 0;
		return ALLOW;
	}
	state = get_rewritten(ctx->sk);
	if (!state || is_ipv4(&state->original.address) != (CONTEXT(ctx->level) == SOL_IP))
		return ALLOW;
	if (CONTEXT(ctx->level) == SOL_IP) {
		if ((void *)(ipv4 + 1) > ctx->optval_end)
			return ALLOW;
		__builtin_memset(ipv4, 0, sizeof(*ipv4));
		ipv4->sin_family = AF_INET;
		ipv4->sin_port = state->original.port;
		ipv4->sin_addr.s_addr = state->original.address.word[3];
		CONTEXT(ctx->optlen) = sizeof(*ipv4);
	} else {
		if ((void *)(ipv6 + 1) > ctx->optval_end)
			return ALLOW;
		__builtin_memset(ipv6, 0, sizeof(*ipv6));
		ipv6->sin6_family = AF_INET6;
		ipv6->sin6_port = state->original.port;
		__builtin_memcpy(&ipv6->sin6_addr, &state->original.address, sizeof(state->original.address));
		CONTEXT(ctx->optlen) = sizeof(*ipv6);
	}
	CONTEXT(ctx->retval) = 0;
	settle_accepting(state);
	report_answer(state, DECISION_HOOK_GETSOCKOPT, DECISION_ANSWERED_ORIGINAL_DESTINATION);
	return ALLOW;
}

/* Gives the state of a socket that connected somewhere else than it asked for. An accepted socket's peer is who it is. */
static __always_inline struct socket_state *get_connected_elsewhere(struct bpf_sock *sk)
{
	struct socket_state *state = get_rewritten(sk);

	return state && state->is_connecting ? state : 0;
}

SEC("cgroup/getpeername4")
int meshpath_getpeername4(struct bpf_sock_addr *ctx)
{
	struct ip_address address = ipv4_address(CONTEXT(ctx->user_ip4));
	struct socket_state *state;
	struct endpoint *resolver;

	if (is_udp(ctx)) {
		resolver = get_datagram_peer(ctx, &address, DECISION_HOOK_GETPEERNAME4);
		if (resolver) {
			CONTEXT(ctx->user_ip4) = resolver->address.word[3];
			CONTEXT(ctx->user_port) = resolver->port;
		}
		return ALLOW;
	}
	state = get_connected_elsewhere(ctx->sk);
	if (!state)
		return ALLOW;
	CONTEXT(ctx->user_ip4) = state->original.address.word[3];
	CONTEXT(ctx->user_port) = state->original.port;
	report_answer(state, DECISION_HOOK_GETPEERNAME4, DECISION_ANSWERED_PEER_NAME);
	return ALLOW;
}

SEC("cgroup/getpeername6")
int meshpath_getpeername6(struct bpf_sock_addr *ctx)
{
	struct ip_address address;
	struct socket_state *state;
	struct endpoint *resolver;

	if (is_udp(ctx)) {
		READ_USER_IP6(ctx, &address);
		resolver = get_datagram_peer(ctx, &address, DECISION_HOOK_GETPEERNAME6);
		if (resolver) {
			WRITE_USER_IP6(ctx, &resolver->address);
			CONTEXT(ctx->user_port) = resolver->port;
		}
		return ALLOW;
	}
	state = get_connected_elsewhere(ctx->sk);
	if (!state)
		return ALLOW;
	WRITE_USER_IP6(ctx, &state->original.address);
	CONTEXT(ctx->user_port) = state->original.port;
	report_answer(state, DECISION_HOOK_GETPEERNAME6, DECISION_ANSWERED_PEER_NAME);
	return ALLOW;
}

#endif
