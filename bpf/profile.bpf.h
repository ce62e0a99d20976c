/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* The mesh's lists: whose connections, and which ports and ranges of addresses, it leaves alone or takes. */
#ifndef MESHPATH_PROFILE_BPF_H
#define MESHPATH_PROFILE_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "maps.bpf.h"

#define RANGE_LIST_BITS 32
#define ADDRESS_BITS 128

/* The user decides before the group, as it does in the order of the rules. */
static __always_inline __u32 get_owner(const struct socket_creator *creator)
{
	struct owner_key key = { .kind = OWNER_KIND_UID, .id = creator->uid };
	__u32 *owner = bpf_map_lookup_elem(&owners, &key);

	if (!owner) {
		key.kind = OWNER_KIND_GID;
		key.id = creator->gid;
		owner = bpf_map_lookup_elem(&owners, &key);
	}
	return owner ? *owner : OWNER_APPLICATION;
}

/* Gives the lists (enum port_list) that a port in host order is in. */
static __always_inline __u32 get_port_lists(__u32 port)
{
	__u32 *lists = bpf_map_lookup_elem(&ports, &port);

	return lists ? *lists : 0;
}

static __always_inline bool is_in_range(__u16 list, const struct ip_address *address)
{
	struct range_key key = {
		.prefix_bits = RANGE_LIST_BITS + ADDRESS_BITS,
		.list = list,
		.is_ipv4 = is_ipv4(address),
		.address = *address,
	};

	return profile.has_ranges && bpf_map_lookup_elem(&ranges, &key);
}

/* The address that routing picks as the source, of connections of one family; all zero: it has none. */
static __always_inline const struct ip_address *get_pod_source(const struct pod *pod, bool of_ipv4)
{
	return of_ipv4 ? &pod->source : &pod->source6;
}

static __always_inline bool has_source_for(const struct pod *pod, const struct ip_address *destination)
{
	return is_loopback(destination) || !is_none(get_pod_source(pod, is_ipv4(destination)));
}

#endif
