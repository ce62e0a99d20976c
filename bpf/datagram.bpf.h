/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * DNS over UDP. A question of an application goes to the resolver of the sidecar over loopback, and the application is
 * told that the answer, the peer and its own address are those that they would be under REDIRECT.
 *
 * Answers of the sidecar all come from one address and port. So that they are told apart, each resolver that a socket
 * asks has a loopback address of its own: 127.0.0.1 and ::1 for the first of each family, 127.128.0.n for more of them
 * over IPv4. A question for such a one comes from that address; the answer that the sidecar sends there is made to come
 * from it too. Resolvers for which there is none left, and all that is not certain, are left to the mesh's rules.
 *
 * Questions come from loopback and not from the address of the pod: under the rules of Istio and Kuma conntrack knows
 * older questions by that address and the same port, in the zone that they put answers of the sidecar into, and would
 * have the answer come from the resolver that was asked then. A socket with such an address of its own, and one that was
 * made before the programs were attached, is left to the rules.
 */
#ifndef MESHPATH_DATAGRAM_BPF_H
#define MESHPATH_DATAGRAM_BPF_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "creator.bpf.h"
#include "decisions.bpf.h"
#include "maps.bpf.h"
#include "profile.bpf.h"
#include "resolver.bpf.h"

#define SLOT_IPV6 0
#define SLOT_IPV4 1
#define SLOT_NETWORK 0x7f800000 /* 127.128.0.0: with the number of the slot, from SLOT_IPV4 + 1 on, the address of its answers */
#define SLOT_NONE RESOLVER_SLOTS

/* A question, or the connect(2) of a socket that will ask. */
struct datagram {
	struct ip_address destination;
	struct ip_address source; /* of the socket, or what sendmsg(2) was told to send from; all zero: none */
	__u16 port; /* host order */
	__u16 slot; /* SLOT_NONE: it goes where it was to go */
	enum decision_hook hook;
};

static __always_inline bool is_udp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;
}

static __always_inline struct ip_address get_slot_address(__u32 slot)
{
	return slot <= SLOT_IPV4 ? loopback_address(slot == SLOT_IPV4) : ipv4_address(bpf_htonl(SLOT_NETWORK | slot));
}

static __always_inline bool is_extra_slot(__u32 slot)
{
	return slot > SLOT_IPV4 && slot < RESOLVER_SLOTS;
}

/* Gives the slot that an address of get_slot_address belongs to; else SLOT_NONE. */
static __always_inline __u32 get_slot_of_address(const struct ip_address *address)
{
	__u32 slot;

	if (is_localhost(address))
		return is_ipv4(address) ? SLOT_IPV4 : SLOT_IPV6;
	slot = bpf_ntohl(address->word[3]) ^ SLOT_NETWORK;
	return is_ipv4(address) && is_extra_slot(slot) ? slot : SLOT_NONE;
}

static __always_inline bool is_same_endpoint(const struct endpoint *a, const struct endpoint *b)
{
	return is_same_address(&a->address, &b->address) && a->port == b->port;
}

/* Gives the slot of a resolver, which is its own from now on; SLOT_NONE where all are others'. */
static __always_inline __u32 take_slot(struct datagram_state *state, const struct endpoint *resolver, bool has_extra)
{
	__u32 slot = is_ipv4(&resolver->address) ? SLOT_IPV4 : SLOT_IPV6;
	__u32 end = slot == SLOT_IPV4 && has_extra ? RESOLVER_SLOTS : slot + 1;

#pragma unroll
	for (__u32 index = SLOT_IPV6; index < RESOLVER_SLOTS; index++) {
		if (index < slot || index >= end)
			continue;
		if (is_same_endpoint(&state->resolvers[index], resolver))
			return index;
		if (is_none(&state->resolvers[index].address)) {
			state->resolvers[index] = *resolver;
			return index;
		}
	}
	return SLOT_NONE;
}

/* Its addresses are taken back before its programs are detached: then nothing new is taken. */
static __always_inline bool is_withdrawn(const struct pod *pod)
{
	return !bpf_map_lookup_elem(&pod_addresses, get_pod_source(pod, !is_none(&pod->source)));
}

/* The rules of OUTPUT for UDP, which come before those for what is included. */
static __always_inline enum decision_reason decide_question(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
							     const struct datagram *datagram,
							     const struct socket_creator *creator,
							     const struct pod *pod)
{
	bool of_ipv4 = is_ipv4(&datagram->destination);

	if (is_switched_off())
		return DECISION_PASSED_SWITCHED_OFF;
	if (!pod->cgroup_id)
		return DECISION_PASSED_NOT_CONFIGURED;
	if (is_withdrawn(pod))
		return DECISION_PASSED_SWITCHED_OFF;
	if (!creator)
		return DECISION_QUESTION_PASSED_OLDER_SOCKET;
	if (get_owner(creator) != OWNER_APPLICATION)
		return DECISION_QUESTION_PASSED_SIDECAR;
	if (profile.excludes_datagrams)
		return DECISION_PASSED_EXCLUDED_PORT;
	if (profile.has_ranges_first && is_in_range(RANGE_EXCLUDED_OUTBOUND, &datagram->destination))
		return DECISION_PASSED_EXCLUDED_RANGE;
	if (!is_included_resolver(&datagram->destination))
		return DECISION_PASSED_NOT_INCLUDED;
	if (is_link_local(&datagram->destination))
		return DECISION_PASSED_LINK_LOCAL;
	if (!has_source_for(pod, &datagram->destination))
		return DECISION_PASSED_NOT_CONFIGURED;
	if (sk->bound_dev_if || (!is_none(&datagram->source) && !is_loopback(&datagram->source)))
		return DECISION_PASSED_BIND_FAILED;
	if (!has_resolver(ctx, of_ipv4))
		return DECISION_QUESTION_PASSED_NO_RESOLVER;
	return DECISION_REDIRECTED_TO_RESOLVER;
}

/* Writes down that an answer is awaited: whoever turns acceleration off waits for it. */
static __always_inline bool note_question(struct bpf_sock_addr *ctx, struct datagram_state *state,
					  const struct endpoint *resolver, const struct pod *pod)
{
	struct question question = {
		.asked_boot_nanoseconds = bpf_ktime_get_boot_ns(),
		.cgroup_id = pod->cgroup_id,
		.resolver = *resolver,
	};
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (bpf_map_update_elem(&questions, &cookie, &question, BPF_ANY))
		return false;
	__sync_fetch_and_add(&state->unanswered, 1);
	return true;
}

static __always_inline void note_answer(struct bpf_sock_addr *ctx, struct datagram_state *state)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (!state->unanswered)
		return;
	if (state->unanswered == 1)
		bpf_map_delete_elem(&questions, &cookie);
	__sync_fetch_and_add(&state->unanswered, -1);
}

/* What getsockname(2) would say of a connected socket: the source that routing picks for the resolver. */
static __always_inline void set_own_address(struct datagram_state *state, const struct datagram *datagram,
					     const struct pod *pod)
{
	struct pod_owner *owner = bpf_map_lookup_elem(&pod_addresses, &datagram->destination);

	if (!is_none(&datagram->source) || is_loopback(&datagram->destination))
		return;
	if (owner && owner->cgroup_id == pod->cgroup_id)
		state->own_address = datagram->destination;
	else
		state->own_address = *get_pod_source(pod, is_ipv4(&datagram->destination));
}

static __always_inline bool is_connect(const struct datagram *datagram)
{
	return datagram->hook == DECISION_HOOK_CONNECT4 || datagram->hook == DECISION_HOOK_CONNECT6;
}

/* Decides a question and sets its slot. */
static __noinline int take_question(struct bpf_sock_addr *ctx, struct datagram *datagram)
{
	struct decision_event event = { .hook = datagram->hook };
	struct pod *pod = bpf_get_local_storage(&pods, 0);
	struct bpf_sock *sk = ctx->sk;
	struct socket_creator *creator;
	struct datagram_state *state;
	enum decision_reason reason;

	datagram->slot = SLOT_NONE;
	if (!sk)
		return 0;
	creator = bpf_sk_storage_get(&socket_creators, sk, 0, 0);
	event.remote.address = datagram->destination;
	event.remote.port = bpf_htons(datagram->port);
	reason = decide_question(ctx, sk, datagram, creator, pod);
	state = bpf_sk_storage_get(&datagram_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		reason = DECISION_FAILED_STORAGE;
		goto report;
	}
	if (reason != DECISION_REDIRECTED_TO_RESOLVER)
		goto report;
	/* Only what is not connected and not bound can be answered at another address. */
	datagram->slot = take_slot(state, &event.remote, !is_connect(datagram) && is_none(&datagram->source));
	if (datagram->slot == SLOT_NONE) {
		reason = DECISION_QUESTION_PASSED_AMBIGUOUS;
		goto report;
	}
	if (!note_question(ctx, state, &event.remote, pod)) {
		datagram->slot = SLOT_NONE;
		reason = DECISION_QUESTION_PASSED_FULL;
		goto report;
	}
	if (is_connect(datagram)) {
		state->is_connected = true;
		set_own_address(state, datagram, pod);
	}
	event.original = event.remote;
	event.remote.address = loopback_address(is_ipv4(&datagram->destination));
	event.remote.port = bpf_htons(profile.dns_port);

report:
	count_decision(reason);
	/* A socket asks again and again: what became of the first question is told, and what then becomes of others. */
	if (state && state->told == reason + 1 && is_same_endpoint(&state->told_remote, &event.original) && !is_connect(datagram))
		return 0;
	if (state) {
		state->told = reason + 1;
		state->told_remote = event.original;
	}
	event.reason = reason;
	event.socket_cookie = bpf_get_socket_cookie(ctx);
	event.cgroup_id = pod->cgroup_id;
	event.netns_cookie = bpf_get_netns_cookie(ctx);
	event.uid = creator ? creator->uid : UID_UNKNOWN;
	event.local.address = datagram->source;
	event.local.port = bpf_htons(sk->src_port);
	send_event(&event);
	return 0;
}

/*
 * A socket that speaks with the sidecar's resolver of its own accord: its answers must not be taken for those of another.
 * Gives the slot that they come from; SLOT_NONE: leave it as it is.
 */
static __always_inline __u32 take_direct_question(struct bpf_sock *sk, const struct datagram *datagram)
{
	struct endpoint resolver = { .address = datagram->destination, .port = bpf_htons(datagram->port) };
	struct datagram_state *state = bpf_sk_storage_get(&datagram_state, sk, 0, 0);

	if (!state)
		return SLOT_NONE;
	if (is_connect(datagram)) {
		state->resolvers[is_ipv4(&resolver.address) ? SLOT_IPV4 : SLOT_IPV6] = resolver;
		return SLOT_NONE;
	}
	/* What a socket that is connected sends to an IPv4-mapped address comes through here too (udpv6_sendmsg). */
	if (state->is_connected)
		return SLOT_NONE;
	return take_slot(state, &resolver, is_none(&datagram->source));
}

/* Decides a datagram, or a connect(2), by its destination and port; its slot says where it goes. */
static __always_inline void take_datagram(struct bpf_sock_addr *ctx, struct datagram *datagram)
{
	struct bpf_sock *sk = ctx->sk;
	struct datagram_state *state;

	datagram->slot = SLOT_NONE;
	if (!profile.dns_port || !sk)
		return;
	if (is_connect(datagram)) {
		/* A socket that connects again starts anew. */
		state = bpf_sk_storage_get(&datagram_state, sk, 0, 0);
		if (state) {
			state->is_connected = false;
			__builtin_memset(&state->own_address, 0, sizeof(state->own_address));
		}
	}
	if (is_no_peer(&datagram->destination))
		return;
	if (datagram->port == profile.dns_port && is_localhost(&datagram->destination))
		datagram->slot = take_direct_question(sk, datagram);
	else if (datagram->port == DNS_PORT)
		take_question(ctx, datagram);
}

/* Says whether a datagram is an answer of the sidecar to an address of a slot. */
static __always_inline bool is_answer_to_slot(struct bpf_sock_addr *ctx, __u32 destination)
{
	struct bpf_sock *sk = ctx->sk;

	return profile.dns_port && sk && sk->src_port == profile.dns_port &&
	       is_extra_slot(bpf_ntohl(destination) ^ SLOT_NETWORK);
}

SEC("cgroup/sendmsg4")
int meshpath_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct datagram datagram = { .hook = DECISION_HOOK_SENDMSG4 };
	__be32 destination = CONTEXT(ctx->user_ip4);
	__be32 source = CONTEXT(ctx->msg_src_ip4);

	if (!is_udp(ctx))
		return ALLOW;
	if (is_answer_to_slot(ctx, destination)) {
		CONTEXT(ctx->msg_src_ip4) = destination;
		return ALLOW;
	}
	/* 0.0.0.0 is this host. */
	datagram.destination = ipv4_address(destination ? destination : bpf_htonl(IPV4_LOOPBACK));
	datagram.port = bpf_ntohs((__be16)CONTEXT(ctx->user_port));
	if (source)
		datagram.source = ipv4_address(source);
	take_datagram(ctx, &datagram);
	if (datagram.slot == SLOT_NONE)
		return ALLOW;
	if (datagram.slot > SLOT_IPV4)
		CONTEXT(ctx->msg_src_ip4) = bpf_htonl(SLOT_NETWORK | datagram.slot);
	CONTEXT(ctx->user_ip4) = bpf_htonl(IPV4_LOOPBACK);
	CONTEXT(ctx->user_port) = bpf_htons(profile.dns_port);
	return ALLOW;
}

/* Only of IPv6 addresses: with an IPv4-mapped one, udpv6_sendmsg goes on to udp_sendmsg. */
SEC("cgroup/sendmsg6")
int meshpath_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct datagram datagram = { .hook = DECISION_HOOK_SENDMSG6 };

	if (!is_udp(ctx))
		return ALLOW;
	datagram.source.word[0] = CONTEXT(ctx->msg_src_ip6[0]);
	datagram.source.word[1] = CONTEXT(ctx->msg_src_ip6[1]);
	datagram.source.word[2] = CONTEXT(ctx->msg_src_ip6[2]);
	datagram.source.word[3] = CONTEXT(ctx->msg_src_ip6[3]);
	READ_USER_IP6(ctx, &datagram.destination);
	if (is_none(&datagram.destination))
		datagram.destination = loopback_address(false);
	datagram.port = bpf_ntohs((__be16)CONTEXT(ctx->user_port));
	take_datagram(ctx, &datagram);
	if (datagram.slot == SLOT_NONE)
		return ALLOW;
	datagram.destination = loopback_address(false);
	WRITE_USER_IP6(ctx, &datagram.destination);
	CONTEXT(ctx->user_port) = bpf_htons(profile.dns_port);
	return ALLOW;
}

/* Gives the resolver that an address and port of the sidecar's stands for; else null. */
static __always_inline struct endpoint *get_resolver(struct datagram_state *state, const struct ip_address *address,
						      __be16 port)
{
	__u32 slot;

	if (!profile.dns_port || port != bpf_htons(profile.dns_port))
		return 0;
	slot = get_slot_of_address(address);
	/* Compilers compare a copy, and the verifier of Linux 5.10 does not know then what it has to be in range. */
	barrier_var(slot);
	if (slot >= RESOLVER_SLOTS || is_none(&state->resolvers[slot].address))
		return 0;
	return &state->resolvers[slot];
}

/* Tells of the first answer to each name that a socket is told. */
static __noinline int report_datagram_answer(struct bpf_sock_addr *ctx, struct datagram_state *state,
					     const struct endpoint *original, enum decision_hook hook,
					     enum decision_reason reason)
{
	struct decision_event event = { .hook = hook, .reason = reason, .uid = UID_UNKNOWN };
	struct bpf_sock *sk = ctx->sk;
	struct socket_creator *creator;
	struct pod *pod;

	count_decision(reason);
	if (state->told_hooks & (1u << (hook & 31)))
		return 0;
	state->told_hooks |= 1u << (hook & 31);
	if (!sk)
		return 0;
	pod = bpf_get_local_storage(&pods, 0);
	creator = bpf_sk_storage_get(&socket_creators, sk, 0, 0);
	if (creator)
		event.uid = creator->uid;
	event.socket_cookie = bpf_get_socket_cookie(ctx);
	event.cgroup_id = pod->cgroup_id;
	event.netns_cookie = bpf_get_netns_cookie(ctx);
	event.local.port = bpf_htons(sk->src_port);
	event.original = *original;
	send_event(&event);
	return 0;
}

/* Gives whom an answer is from; null: from whom it says. */
static __always_inline struct endpoint *take_answer(struct bpf_sock_addr *ctx, const struct ip_address *address,
						     enum decision_hook hook)
{
	struct bpf_sock *sk = ctx->sk;
	struct datagram_state *state = sk ? bpf_sk_storage_get(&datagram_state, sk, 0, 0) : 0;
	struct endpoint *resolver;

	if (!state)
		return 0;
	resolver = get_resolver(state, address, (__be16)CONTEXT(ctx->user_port));
	if (!resolver)
		return 0;
	note_answer(ctx, state);
	report_datagram_answer(ctx, state, resolver, hook, DECISION_ANSWERED_RESOLVER);
	return resolver;
}

SEC("cgroup/recvmsg4")
int meshpath_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct ip_address address = ipv4_address(CONTEXT(ctx->user_ip4));
	struct endpoint *resolver;

	if (!is_udp(ctx))
		return ALLOW;
	resolver = take_answer(ctx, &address, DECISION_HOOK_RECVMSG4);
	if (resolver) {
		CONTEXT(ctx->user_ip4) = resolver->address.word[3];
		CONTEXT(ctx->user_port) = resolver->port;
	}
	return ALLOW;
}

/* Of IPv6 sockets, also for what they receive over IPv4. */
SEC("cgroup/recvmsg6")
int meshpath_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct ip_address address;
	struct endpoint *resolver;

	if (!is_udp(ctx))
		return ALLOW;
	READ_USER_IP6(ctx, &address);
	resolver = take_answer(ctx, &address, DECISION_HOOK_RECVMSG6);
	if (resolver) {
		WRITE_USER_IP6(ctx, &resolver->address);
		CONTEXT(ctx->user_port) = resolver->port;
	}
	return ALLOW;
}

/* Gives the state of a socket whose connect(2) was sent to the sidecar's resolver; else null. */
static __always_inline struct datagram_state *get_connected_datagram(struct bpf_sock *sk)
{
	struct datagram_state *state = sk ? bpf_sk_storage_get(&datagram_state, sk, 0, 0) : 0;

	return state && state->is_connected ? state : 0;
}

/* Gives whom getpeername(2) of a UDP socket names; null: whom the kernel does. */
static __always_inline struct endpoint *get_datagram_peer(struct bpf_sock_addr *ctx, const struct ip_address *address,
							   enum decision_hook hook)
{
	struct datagram_state *state = get_connected_datagram(ctx->sk);
	struct endpoint *resolver;

	if (!state)
		return 0;
	resolver = get_resolver(state, address, (__be16)CONTEXT(ctx->user_port));
	if (resolver)
		report_datagram_answer(ctx, state, resolver, hook, DECISION_ANSWERED_PEER_NAME);
	return resolver;
}

/* Gives what getsockname(2) says where a socket is at loopback only because its connect(2) was sent there; else null. */
static __always_inline struct ip_address *get_own_address(struct bpf_sock_addr *ctx, const struct ip_address *address,
							   enum decision_hook hook)
{
	struct datagram_state *state = get_connected_datagram(ctx->sk);
	struct endpoint original = {};

	if (!state || is_none(&state->own_address) || !is_localhost(address))
		return 0;
	original.address = state->own_address;
	original.port = (__be16)CONTEXT(ctx->user_port);
	report_datagram_answer(ctx, state, &original, hook, DECISION_ANSWERED_OWN_NAME);
	return &state->own_address;
}

SEC("cgroup/getsockname4")
int meshpath_getsockname4(struct bpf_sock_addr *ctx)
{
	struct ip_address address = ipv4_address(CONTEXT(ctx->user_ip4));
	struct ip_address *own;

	if (!is_udp(ctx))
		return ALLOW;
	own = get_own_address(ctx, &address, DECISION_HOOK_GETSOCKNAME4);
	if (own)
		CONTEXT(ctx->user_ip4) = own->word[3];
	return ALLOW;
}

SEC("cgroup/getsockname6")
int meshpath_getsockname6(struct bpf_sock_addr *ctx)
{
	struct ip_address address;
	struct ip_address *own;

	if (!is_udp(ctx))
		return ALLOW;
	READ_USER_IP6(ctx, &address);
	own = get_own_address(ctx, &address, DECISION_HOOK_GETSOCKNAME6);
	if (own)
		WRITE_USER_IP6(ctx, own);
	return ALLOW;
}

/* A socket that closes waits for no answer any more. */
SEC("cgroup/sock_release")
int meshpath_sock_release(struct bpf_sock *sk)
{
	struct datagram_state *state;
	__u64 cookie;

	if (sk->type != SOCK_DGRAM)
		return ALLOW;
	state = bpf_sk_storage_get(&datagram_state, sk, 0, 0);
	if (state && state->unanswered) {
		cookie = bpf_get_socket_cookie(sk);
		bpf_map_delete_elem(&questions, &cookie);
	}
	return ALLOW;
}

#endif
