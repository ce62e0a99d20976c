/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * connect(2) of TCP sockets over IPv4 in an enrolled pod. The program takes the place of the mesh's rules in OUTPUT of
 * the connecting pod and in PREROUTING of the accepting one, and decides as they do. Where it does not decide, or
 * cannot, the connection goes on as if it were not there; it never refuses one.
 */
#ifndef MESHPATH_CONNECT_BPF_H
#define MESHPATH_CONNECT_BPF_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "creator.bpf.h"
#include "decisions.bpf.h"
#include "maps.bpf.h"

/* What connect(2) was asked for, and by whom. */
struct connect_request {
	struct ip_address destination;
	__u16 port; /* host order */
	bool is_to_own_pod; /* one of the pod's own addresses */
	bool is_to_pod; /* an address of any enrolled pod */
	bool is_from_passthrough; /* bound to the address from which a sidecar connects to its application */
	struct socket_creator creator;
};

/* Where a connection goes instead. */
struct rewrite {
	__be32 source; /* what to bind to; 0: leave it to routing */
	__be32 destination;
	__u16 port; /* host order */
};

static __always_inline bool is_excluded(const volatile __u16 *ports, __u16 port)
{
	bool found = false;

#pragma unroll
	for (int index = 0; index < EXCLUDED_PORTS_MAX; index++)
		found |= ports[index] && ports[index] == port;
	return found;
}

static __always_inline bool is_proxy(const struct socket_creator *creator)
{
	return creator->uid == profile.proxy_uid || creator->gid == profile.proxy_gid;
}

static __always_inline enum decision_reason decide_for_proxy(const struct connect_request *request,
							      struct rewrite *rewrite)
{
	if (is_loopback(&request->destination))
		return DECISION_SIDECAR_TO_APPLICATION;
	if (request->is_to_own_pod) {
		/* Rules that match the group alone come after one that lets all other users on loopback pass. */
		if (request->is_from_passthrough || request->creator.uid != profile.proxy_uid)
			return DECISION_SIDECAR_TO_APPLICATION;
		if (is_excluded(profile.excluded_inbound_ports, request->port) ||
		    is_excluded(profile.excluded_outbound_ports, request->port))
			return DECISION_PASSED_EXCLUDED_PORT;
		/* Routing would take the destination, which is local, as the source too. */
		rewrite->source = request->destination.word[3];
		rewrite->destination = bpf_htonl(IPV4_LOOPBACK);
		rewrite->port = profile.inbound_port;
		return DECISION_REDIRECTED_TO_INBOUND;
	}
	if (!request->is_to_pod)
		return DECISION_PASSED_PEER_NOT_ENROLLED;
	if (is_excluded(profile.excluded_inbound_ports, request->port))
		return DECISION_PASSED_EXCLUDED_PORT;
	rewrite->source = 0;
	rewrite->destination = request->destination.word[3];
	rewrite->port = profile.inbound_port;
	return DECISION_REDIRECTED_TO_INBOUND;
}

static __always_inline enum decision_reason decide_for_application(const struct connect_request *request,
								    const struct pod *pod, struct rewrite *rewrite)
{
	if (is_loopback(&request->destination))
		return DECISION_PASSED_LOOPBACK;
	if (request->is_to_own_pod)
		return DECISION_PASSED_OWN_ADDRESS;
	if (is_excluded(profile.excluded_outbound_ports, request->port))
		return DECISION_PASSED_EXCLUDED_PORT;
	rewrite->source = pod->source.word[3];
	rewrite->destination = bpf_htonl(IPV4_LOOPBACK);
	rewrite->port = profile.outbound_port;
	return DECISION_REDIRECTED_TO_OUTBOUND;
}

static __always_inline enum decision_reason decide(const struct connect_request *request, const struct pod *pod,
						    struct rewrite *rewrite)
{
	return is_proxy(&request->creator) ? decide_for_proxy(request, rewrite) :
					       decide_for_application(request, pod, rewrite);
}

/*
 * Binds the socket to the address that routing would have picked, so that the sidecar sees the same peer as under
 * REDIRECT. Gives 0, or a negative errno where the socket is bound in a way that does not go with the rewrite.
 */
static __always_inline int bind_source(struct bpf_sock_addr *ctx, struct bpf_sock *sk, __be32 source)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = source };
	__be32 bound = sk->src_ip4;

	/* A socket that is bound to loopback or to a device cannot connect to the other of the two. */
	if (sk->bound_dev_if || (bpf_ntohl(bound) >> 24) == 127)
		return -EINVAL;
	if (bound || !source)
		return 0;
	return bpf_bind(ctx, (struct sockaddr *)&address, sizeof(address));
}

SEC("cgroup/connect4")
int meshpath_connect4(struct bpf_sock_addr *ctx)
{
	struct decision_event event = { .hook = DECISION_HOOK_CONNECT4 };
	struct connect_request request = {};
	struct rewrite rewrite = {};
	struct socket_state *state;
	struct pod_owner *owner;
	struct control *switches;
	struct bpf_sock *sk;
	struct pod *pod;
	enum decision_reason reason;
	__be32 destination, passthrough;
	int error = 0;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return ALLOW;
	sk = ctx->sk;
	if (!sk)
		return ALLOW;
	destination = CONTEXT(ctx->user_ip4);
	/* The kernel refuses to connect to these; it should be asked as it was asked. */
	if ((bpf_ntohl(destination) >> 28) >= 14)
		return ALLOW;
	/* 0.0.0.0 is this host: tcp_v4_connect sends it to loopback. */
	if (!destination)
		destination = bpf_htonl(IPV4_LOOPBACK);
	request.destination = ipv4_address(destination);
	request.port = bpf_ntohs((__be16)CONTEXT(ctx->user_port));
	request.creator = get_creator(sk);

	/* A socket that connects again starts anew. */
	state = bpf_sk_storage_get(&socket_state, sk, 0, 0);
	if (state)
		__builtin_memset(state, 0, sizeof(*state));

	pod = bpf_get_local_storage(&pods, 0);
	switches = get_control();
	if (!switches || switches->switched_off) {
		reason = DECISION_PASSED_SWITCHED_OFF;
		goto report;
	}
	if (!pod->cgroup_id) {
		reason = DECISION_PASSED_NOT_CONFIGURED;
		goto report;
	}
	owner = bpf_map_lookup_elem(&pod_addresses, &request.destination);
	request.is_to_pod = owner;
	request.is_to_own_pod = owner && owner->cgroup_id == pod->cgroup_id;
	passthrough = profile.passthrough_source.word[3];
	request.is_from_passthrough = passthrough && sk->src_ip4 == passthrough;

	reason = decide(&request, pod, &rewrite);
	if (reason != DECISION_REDIRECTED_TO_OUTBOUND && reason != DECISION_REDIRECTED_TO_INBOUND &&
	    reason != DECISION_SIDECAR_TO_APPLICATION)
		goto report;
	if (switches->live_connections >= profile.connection_limit) {
		reason = DECISION_CONNECTIONS_FULL;
		goto report;
	}
	if (!state)
		state = bpf_sk_storage_get(&socket_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		reason = DECISION_FAILED_STORAGE;
		goto report;
	}
	if (rewrite.destination) {
		/* Only connections over loopback need a source: for others, routing goes by the same destination. */
		error = rewrite.destination == destination ? 0 : bind_source(ctx, sk, rewrite.source);
		if (error) {
			reason = DECISION_PASSED_BIND_FAILED;
			goto report;
		}
		state->original.address = request.destination;
		state->original.port = bpf_htons(request.port);
		state->is_rewritten = true;
		event.original = state->original;
		CONTEXT(ctx->user_ip4) = rewrite.destination;
		CONTEXT(ctx->user_port) = bpf_htons(rewrite.port);
	}
	state->is_connecting = true;
	state->cookie = bpf_get_socket_cookie(ctx);
	state->cgroup_id = pod->cgroup_id;
	state->netns_cookie = bpf_get_netns_cookie(ctx);
	state->uid = request.creator.uid;

report:
	count_decision(reason);
	event.reason = reason;
	event.error = -error;
	event.socket_cookie = bpf_get_socket_cookie(ctx);
	event.cgroup_id = pod->cgroup_id;
	event.netns_cookie = bpf_get_netns_cookie(ctx);
	event.uid = request.creator.uid;
	event.local.address = ipv4_address(sk->src_ip4);
	event.local.port = bpf_htons(sk->src_port);
	event.remote.address = ipv4_address(CONTEXT(ctx->user_ip4));
	event.remote.port = (__be16)CONTEXT(ctx->user_port);
	send_event(&event);
	return ALLOW;
}

#endif
