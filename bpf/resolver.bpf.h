/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* Which questions the mesh's rules send to the resolver of the sidecar, over UDP and TCP alike. */
#ifndef MESHPATH_RESOLVER_BPF_H
#define MESHPATH_RESOLVER_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "maps.bpf.h"
#include "profile.bpf.h"

#define DNS_PORT 53

/*
 * Says whether somebody answers DNS for the sidecar: only a sidecar that was told to capture DNS listens, and where none
 * does, a question that was sent there would be refused.
 */
static __always_inline bool has_resolver(struct bpf_sock_addr *ctx, bool of_ipv4)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *resolver;

	if (of_ipv4) {
		tuple.ipv4.daddr = bpf_htonl(IPV4_LOOPBACK);
		tuple.ipv4.dport = bpf_htons(profile.dns_port);
		resolver = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		tuple.ipv6.daddr[3] = bpf_htonl(1);
		tuple.ipv6.dport = bpf_htons(profile.dns_port);
		resolver = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!resolver)
		return false;
	bpf_sk_release(resolver);
	return true;
}

/* Says whether the rules name this resolver, or all. */
static __always_inline bool is_included_resolver(const struct ip_address *address)
{
	return !profile.has_resolvers || is_in_range(RANGE_RESOLVERS, address);
}

#endif
