/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * connect(2) in an enrolled pod: here of TCP sockets, of UDP ones in bpf/datagram.bpf.h. The programs take the place of the mesh's rules in OUTPUT of the
 * connecting pod and in PREROUTING of the accepting one, and decide as they do, in their order. Where they do not
 * decide, or cannot, the connection goes on as if they were not there; they never refuse one.
 */
#ifndef MESHPATH_CONNECT_BPF_H
#define MESHPATH_CONNECT_BPF_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "creator.bpf.h"
#include "datagram.bpf.h"
#include "decisions.bpf.h"
#include "maps.bpf.h"
#include "profile.bpf.h"
#include "resolver.bpf.h"

/* What connect(2) was asked for, and by whom. */
struct connect_request {
	struct ip_address destination;
	struct ip_address source; /* what the socket is bound to; all zero: nothing */
	struct ip_address inbound; /* where the rules of the pod that it is an address of redirect to */
	__u16 port; /* host order */
	bool is_to_own_pod; /* one of the pod's own addresses */
	bool is_to_pod; /* an address of any enrolled pod */
	bool is_question; /* DNS, and the sidecar answers DNS */
	__u32 owner; /* enum owner */
	__u32 port_lists; /* enum port_list */
};

/* Where a connection goes instead. */
struct rewrite {
	struct ip_address source; /* what to bind to; all zero: leave it to routing */
	struct ip_address destination;
	__u16 port; /* host order; 0: it goes where it was to go */
};

static __always_inline bool is_from_passthrough(const struct connect_request *request)
{
	const volatile struct ip_address *passthrough =
		is_ipv4(&request->source) ? &profile.passthrough_source : &profile.passthrough_source6;

	return !is_none(&request->source) && request->source.word[0] == passthrough->word[0] &&
	       request->source.word[1] == passthrough->word[1] && request->source.word[2] == passthrough->word[2] &&
	       request->source.word[3] == passthrough->word[3];
}

/* The rules of OUTPUT for what leaves by the loopback device. */
static __always_inline enum decision_reason decide_for_own_pod(const struct connect_request *request,
								struct rewrite *rewrite)
{
	if (!profile.redirects_own || request->owner != OWNER_SIDECAR || is_localhost(&request->destination) ||
	    is_from_passthrough(request) || request->is_question)
		return DECISION_SIDECAR_TO_APPLICATION;
	if (request->port_lists & ((profile.has_ports_first ? PORT_EXCLUDED_OUTBOUND : 0) | PORT_TUNNEL))
		return DECISION_PASSED_EXCLUDED_PORT;
	if (profile.has_ranges_first && is_in_range(RANGE_EXCLUDED_OUTBOUND, &request->destination))
		return DECISION_PASSED_EXCLUDED_RANGE;
	/* Routing would take a destination that is the pod's own as the source too. */
	if (request->is_to_own_pod)
		rewrite->source = request->destination;
	rewrite->destination = loopback_address(is_ipv4(&request->destination));
	rewrite->port = profile.inbound_port;
	return DECISION_REDIRECTED_TO_INBOUND;
}

/* The rules of PREROUTING of another pod. */
static __always_inline enum decision_reason decide_for_other_pod(const struct connect_request *request,
								  const struct pod *pod, struct rewrite *rewrite)
{
	const struct ip_address *source = &request->source;

	if (!request->is_to_pod)
		return DECISION_PASSED_PEER_NOT_ENROLLED;
	if (request->port_lists & (PORT_EXCLUDED_INBOUND | PORT_TUNNEL))
		return DECISION_PASSED_EXCLUDED_PORT;
	if (is_none(source))
		source = get_pod_source(pod, is_ipv4(&request->destination));
	if (is_in_range(RANGE_EXCLUDED_INBOUND, source))
		return DECISION_PASSED_EXCLUDED_RANGE;
	if (profile.has_included_inbound && !(request->port_lists & PORT_INCLUDED_INBOUND) &&
	    !is_in_range(RANGE_INCLUDED_INBOUND, source))
		return DECISION_PASSED_NOT_INCLUDED;
	rewrite->destination = request->inbound;
	rewrite->port = profile.inbound_port;
	return DECISION_REDIRECTED_TO_INBOUND;
}

/* Sends a connection to the sidecar, from the address that routing would have picked. */
static __always_inline void set_sidecar(const struct connect_request *request, const struct pod *pod, __u16 port,
					struct rewrite *rewrite)
{
	bool of_ipv4 = is_ipv4(&request->destination);

	if (request->is_to_own_pod)
		rewrite->source = request->destination;
	else if (!is_loopback(&request->destination))
		rewrite->source = *get_pod_source(pod, of_ipv4);
	rewrite->destination = loopback_address(of_ipv4);
	rewrite->port = port;
}

/* Where the sidecar answers DNS, the rules for DNS come before those for what stays in the pod, which leave DNS out. */
static __always_inline enum decision_reason decide_for_application(const struct connect_request *request,
								    const struct pod *pod, struct rewrite *rewrite)
{
	if (is_loopback(&request->destination) && !request->is_question)
		return DECISION_PASSED_LOOPBACK;
	if (request->is_to_own_pod && !request->is_question)
		return DECISION_PASSED_OWN_ADDRESS;
	/* Its source would be an address of its link. */
	if (is_link_local(&request->destination))
		return DECISION_PASSED_LINK_LOCAL;
	/* Routing has nothing to pick from either: connect(2) fails as it does without the programs. */
	if (is_none(&request->source) && !has_source_for(pod, &request->destination))
		return DECISION_PASSED_NOT_CONFIGURED;
	if (request->port_lists & PORT_EXCLUDED_OUTBOUND)
		return DECISION_PASSED_EXCLUDED_PORT;
	if (request->is_question) {
		if (profile.has_ranges_first && is_in_range(RANGE_EXCLUDED_OUTBOUND, &request->destination))
			return DECISION_PASSED_EXCLUDED_RANGE;
		if (is_included_resolver(&request->destination)) {
			set_sidecar(request, pod, profile.dns_port, rewrite);
			return DECISION_REDIRECTED_TO_RESOLVER;
		}
		if (is_localhost(&request->destination))
			return DECISION_PASSED_LOOPBACK;
	}
	if (is_in_range(RANGE_EXCLUDED_OUTBOUND, &request->destination))
		return DECISION_PASSED_EXCLUDED_RANGE;
	if (profile.has_included_outbound && !(request->port_lists & PORT_INCLUDED_OUTBOUND) &&
	    !is_in_range(RANGE_INCLUDED_OUTBOUND, &request->destination))
		return DECISION_PASSED_NOT_INCLUDED;
	set_sidecar(request, pod, profile.outbound_port, rewrite);
	return DECISION_REDIRECTED_TO_OUTBOUND;
}

static __always_inline enum decision_reason decide(const struct connect_request *request, const struct pod *pod,
						    struct rewrite *rewrite)
{
	if (request->owner == OWNER_APPLICATION)
		return decide_for_application(request, pod, rewrite);
	if (request->is_to_own_pod || is_loopback(&request->destination))
		return decide_for_own_pod(request, rewrite);
	return decide_for_other_pod(request, pod, rewrite);
}

/*
 * Binds the socket to the address that routing would have picked, so that the sidecar sees the same peer as under
 * REDIRECT. Gives 0, or a negative errno where the socket is bound in a way that does not go with the rewrite.
 */
static __always_inline int bind_source(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
				       const struct connect_request *request, const struct ip_address *source,
				       bool is_ipv6_socket)
{
	struct sockaddr_in6 ipv6 = {};
	struct sockaddr_in ipv4 = {};

	/* A socket that is bound to loopback or to a device cannot connect to the other of the two. */
	if (sk->bound_dev_if || (!is_none(&request->source) && is_loopback(&request->source)))
		return -EINVAL;
	if (!is_none(&request->source) || is_none(source))
		return 0;
	if (is_ipv6_socket) {
		ipv6.sin6_family = AF_INET6;
		__builtin_memcpy(&ipv6.sin6_addr, source, sizeof(*source));
		return bpf_bind(ctx, (struct sockaddr *)&ipv6, sizeof(ipv6));
	}
	ipv4.sin_family = AF_INET;
	ipv4.sin_addr.s_addr = source->word[3];
	return bpf_bind(ctx, (struct sockaddr *)&ipv4, sizeof(ipv4));
}

/* Decides a connection and writes it down in socket storage. `request` has its destination, port and source. */
static __always_inline void take_connection(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
					    struct connect_request *request, struct rewrite *rewrite,
					    bool is_ipv6_socket)
{
	struct decision_event event = {
		.hook = is_ipv6_socket ? DECISION_HOOK_CONNECT6 : DECISION_HOOK_CONNECT4,
	};
	struct pod *pod = bpf_get_local_storage(&pods, 0);
	struct socket_creator creator = get_creator(sk);
	struct activity *sums = get_activity();
	struct socket_state *state;
	struct pod_owner *owner;
	enum decision_reason reason;
	int error = 0;

	/* A socket that connects again starts anew. */
	state = bpf_sk_storage_get(&socket_state, sk, 0, 0);
	if (state)
		__builtin_memset(state, 0, sizeof(*state));
	event.remote.address = request->destination;
	event.remote.port = bpf_htons(request->port);

	if (is_switched_off()) {
		reason = DECISION_PASSED_SWITCHED_OFF;
		goto report;
	}
	if (!pod->cgroup_id) {
		reason = DECISION_PASSED_NOT_CONFIGURED;
		goto report;
	}
	owner = bpf_map_lookup_elem(&pod_addresses, &request->destination);
	if (owner) {
		request->is_to_pod = true;
		request->is_to_own_pod = owner->cgroup_id == pod->cgroup_id;
		request->inbound = owner->inbound;
	}
	request->owner = get_owner(&creator);
	request->port_lists = get_port_lists(request->port);
	request->is_question = profile.dns_port && request->port == DNS_PORT &&
			       has_resolver(ctx, is_ipv4(&request->destination));

	reason = decide(request, pod, rewrite);
	if (!rewrite->port && reason != DECISION_SIDECAR_TO_APPLICATION)
		goto report;
	if (!sums || sums->live_connections >= profile.connection_limit) {
		reason = DECISION_CONNECTIONS_FULL;
		goto fail;
	}
	if (!state)
		state = bpf_sk_storage_get(&socket_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		reason = DECISION_FAILED_STORAGE;
		goto fail;
	}
	if (rewrite->port) {
		/* Only connections over loopback need a source: others go to the same pod as before. */
		if (is_loopback(&rewrite->destination))
			error = bind_source(ctx, sk, request, &rewrite->source, is_ipv6_socket);
		if (error) {
			reason = DECISION_PASSED_BIND_FAILED;
			goto fail;
		}
		state->original.address = request->destination;
		state->original.port = bpf_htons(request->port);
		state->is_rewritten = true;
		event.original = state->original;
		event.remote.address = rewrite->destination;
		event.remote.port = bpf_htons(rewrite->port);
	}
	state->is_connecting = true;
	state->cookie = bpf_get_socket_cookie(ctx);
	state->cgroup_id = pod->cgroup_id;
	state->netns_cookie = bpf_get_netns_cookie(ctx);
	state->uid = creator.uid;
	goto report;

fail:
	rewrite->port = 0;
report:
	count_decision(reason);
	event.reason = reason;
	event.error = -error;
	event.socket_cookie = bpf_get_socket_cookie(ctx);
	event.cgroup_id = pod->cgroup_id;
	event.netns_cookie = bpf_get_netns_cookie(ctx);
	event.uid = creator.uid;
	event.local.address = request->source;
	event.local.port = bpf_htons(sk->src_port);
	send_event(&event);
}

static __always_inline bool is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
}

/* In functions of their own: the stack of one has no room for both. */
static __noinline int connect_stream4(struct bpf_sock_addr *ctx)
{
	struct connect_request request = {};
	struct rewrite rewrite = {};
	struct bpf_sock *sk = ctx->sk;
	__be32 destination;

	if (!sk)
		return 0;
	/* 0.0.0.0 is this host: tcp_v4_connect sends it to loopback. */
	destination = CONTEXT(ctx->user_ip4);
	request.destination = ipv4_address(destination ? destination : bpf_htonl(IPV4_LOOPBACK));
	/* The kernel should be asked as it was asked, to say no. */
	if (is_no_peer(&request.destination))
		return 0;
	request.port = bpf_ntohs((__be16)CONTEXT(ctx->user_port));
	if (CONTEXT(sk->src_ip4))
		request.source = ipv4_address(CONTEXT(sk->src_ip4));
	take_connection(ctx, sk, &request, &rewrite, false);
	if (rewrite.port) {
		CONTEXT(ctx->user_ip4) = rewrite.destination.word[3];
		CONTEXT(ctx->user_port) = bpf_htons(rewrite.port);
	}
	return 0;
}

static __noinline int connect_datagram4(struct bpf_sock_addr *ctx)
{
	struct datagram datagram = { .hook = DECISION_HOOK_CONNECT4 };
	struct bpf_sock *sk = ctx->sk;
	__be32 destination;

	if (!sk)
		return 0;
	destination = CONTEXT(ctx->user_ip4);
	datagram.destination = ipv4_address(destination ? destination : bpf_htonl(IPV4_LOOPBACK));
	datagram.port = bpf_ntohs((__be16)CONTEXT(ctx->user_port));
	if (CONTEXT(sk->src_ip4))
		datagram.source = ipv4_address(CONTEXT(sk->src_ip4));
	take_datagram(ctx, &datagram);
	if (datagram.slot != SLOT_NONE) {
		CONTEXT(ctx->user_ip4) = bpf_htonl(IPV4_LOOPBACK);
		CONTEXT(ctx->user_port) = bpf_htons(profile.dns_port);
	}
	return 0;
}

/* Also of IPv6 UDP sockets that are given an IPv4 address as one (udpv6_pre_connect). */
SEC("cgroup/connect4")
int meshpath_connect4(struct bpf_sock_addr *ctx)
{
	if (is_tcp(ctx))
		connect_stream4(ctx);
	else if (is_udp(ctx))
		connect_datagram4(ctx);
	return ALLOW;
}

/* Reads source and destination of a connect(2) of an IPv6 socket. */
static __always_inline void read_ends6(struct bpf_sock_addr *ctx, struct bpf_sock *sk, struct ip_address *source,
					struct ip_address *destination)
{
	source->word[0] = CONTEXT(sk->src_ip6[0]);
	source->word[1] = CONTEXT(sk->src_ip6[1]);
	source->word[2] = CONTEXT(sk->src_ip6[2]);
	source->word[3] = CONTEXT(sk->src_ip6[3]);
	READ_USER_IP6(ctx, destination);
	/* :: and 0.0.0.0 are this host; a socket that is bound to an IPv4 address goes to that of IPv4. */
	if (is_none(destination))
		*destination = loopback_address(is_ipv4(source));
	else if (is_ipv4(destination) && !destination->word[3])
		*destination = loopback_address(true);
}

static __noinline int connect_stream6(struct bpf_sock_addr *ctx)
{
	struct connect_request request = {};
	struct rewrite rewrite = {};
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return 0;
	read_ends6(ctx, sk, &request.source, &request.destination);
	if (is_no_peer(&request.destination))
		return 0;
	request.port = bpf_ntohs((__be16)CONTEXT(ctx->user_port));
	take_connection(ctx, sk, &request, &rewrite, true);
	if (rewrite.port) {
		WRITE_USER_IP6(ctx, &rewrite.destination);
		CONTEXT(ctx->user_port) = bpf_htons(rewrite.port);
	}
	return 0;
}

static __noinline int connect_datagram6(struct bpf_sock_addr *ctx)
{
	struct datagram datagram = { .hook = DECISION_HOOK_CONNECT6 };
	struct ip_address resolver;
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return 0;
	read_ends6(ctx, sk, &datagram.source, &datagram.destination);
	datagram.port = bpf_ntohs((__be16)CONTEXT(ctx->user_port));
	take_datagram(ctx, &datagram);
	if (datagram.slot != SLOT_NONE) {
		resolver = loopback_address(is_ipv4(&datagram.destination));
		WRITE_USER_IP6(ctx, &resolver);
		CONTEXT(ctx->user_port) = bpf_htons(profile.dns_port);
	}
	return 0;
}

/* Of IPv6 sockets; with an IPv4-mapped address they connect over IPv4 (tcp_v6_connect). */
SEC("cgroup/connect6")
int meshpath_connect6(struct bpf_sock_addr *ctx)
{
	if (is_tcp(ctx))
		connect_stream6(ctx);
	else if (is_udp(ctx))
		connect_datagram6(ctx);
	return ALLOW;
}

#endif
