/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* Addresses and ports of contexts in one form. */
#ifndef MESHPATH_ADDRESS_BPF_H
#define MESHPATH_ADDRESS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "meshpath.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define ALLOW 1 /* what cgroup programs return to let a call go on */
#define IPV4_LOOPBACK 0x7f000001 /* 127.0.0.1 */

/*
 * Writes, or reads, one field of a context as it stands: compilers merge neighbouring accesses into wider ones, which
 * the verifier refuses.
 */
#define CONTEXT(field) (*(volatile __typeof__(field) *)&(field))

/*
 * Reads a field of 32 bits. Where branches read different fields, compilers also compute the address of the field
 * first and read after the branches join, which the verifier refuses too; so the instruction is given as it has to be.
 */
#define READ_CONTEXT(context, field)                                                               \
	({                                                                                         \
		__u64 value_;                                                                      \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                              \
			     : "=r"(value_)                                                        \
			     : "r"(context), "i"(__builtin_offsetof(__typeof__(*(context)), field))); \
		(__u32)value_;                                                                     \
	})

static __always_inline struct ip_address ipv4_address(__be32 address)
{
	struct ip_address mapped = { .word = { 0, 0, bpf_htonl(0xffff), address } };

	return mapped;
}

static __always_inline bool is_ipv4(const struct ip_address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline struct ip_address loopback_address(bool of_ipv4)
{
	struct ip_address address = { .word = { 0, 0, of_ipv4 ? bpf_htonl(0xffff) : 0, 0 } };

	address.word[3] = bpf_htonl(of_ipv4 ? IPV4_LOOPBACK : 1);
	return address;
}

static __always_inline bool is_ipv6_loopback(const struct ip_address *address)
{
	return !address->word[0] && !address->word[1] && !address->word[2] && address->word[3] == bpf_htonl(1);
}

/* 127.0.0.0/8 and ::1 */
static __always_inline bool is_loopback(const struct ip_address *address)
{
	return is_ipv4(address) ? (bpf_ntohl(address->word[3]) >> 24) == 127 : is_ipv6_loopback(address);
}

/* 127.0.0.1 and ::1 */
static __always_inline bool is_localhost(const struct ip_address *address)
{
	return is_ipv4(address) ? address->word[3] == bpf_htonl(IPV4_LOOPBACK) : is_ipv6_loopback(address);
}

/* fe80::/10 */
static __always_inline bool is_link_local(const struct ip_address *address)
{
	return (bpf_ntohl(address->word[0]) >> 22) == 0x3fa;
}

/* Multicast and, of IPv4, reserved addresses too: the kernel connects to none of them. */
static __always_inline bool is_no_peer(const struct ip_address *address)
{
	return is_ipv4(address) ? (bpf_ntohl(address->word[3]) >> 28) >= 14 : (bpf_ntohl(address->word[0]) >> 24) == 0xff;
}

static __always_inline bool is_none(const struct ip_address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

static __always_inline bool is_same_address(const struct ip_address *a, const struct ip_address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* Reads, or writes, the IPv6 address of a bpf_sock_addr context. */
#define READ_USER_IP6(context, address)							\
	do {										\
		(address)->word[0] = CONTEXT((context)->user_ip6[0]);			\
		(address)->word[1] = CONTEXT((context)->user_ip6[1]);			\
		(address)->word[2] = CONTEXT((context)->user_ip6[2]);			\
		(address)->word[3] = CONTEXT((context)->user_ip6[3]);			\
	} while (0)

#define WRITE_USER_IP6(context, address)						\
	do {										\
		CONTEXT((context)->user_ip6[0]) = (address)->word[0];			\
		CONTEXT((context)->user_ip6[1]) = (address)->word[1];			\
		CONTEXT((context)->user_ip6[2]) = (address)->word[2];			\
		CONTEXT((context)->user_ip6[3]) = (address)->word[3];			\
	} while (0)

/*
 * Gives the ends of the socket of a bpf_sock_ops or sk_msg_md context, which have the same fields. Of those, local_port
 * is in host order, and remote_port is 32 bits in network order of which the last 16 are the port.
 */
#define READ_ENDS(context, local_end, remote_end)						\
	do {											\
		if (READ_CONTEXT(context, family) == AF_INET6) {				\
			(local_end)->address.word[0] = READ_CONTEXT(context, local_ip6[0]);	\
			(local_end)->address.word[1] = READ_CONTEXT(context, local_ip6[1]);	\
			(local_end)->address.word[2] = READ_CONTEXT(context, local_ip6[2]);	\
			(local_end)->address.word[3] = READ_CONTEXT(context, local_ip6[3]);	\
			(remote_end)->address.word[0] = READ_CONTEXT(context, remote_ip6[0]);	\
			(remote_end)->address.word[1] = READ_CONTEXT(context, remote_ip6[1]);	\
			(remote_end)->address.word[2] = READ_CONTEXT(context, remote_ip6[2]);	\
			(remote_end)->address.word[3] = READ_CONTEXT(context, remote_ip6[3]);	\
		} else {									\
			(local_end)->address = ipv4_address(READ_CONTEXT(context, local_ip4));	\
			(remote_end)->address = ipv4_address(READ_CONTEXT(context, remote_ip4));	\
		}										\
		(local_end)->port = bpf_htons(READ_CONTEXT(context, local_port));		\
		(remote_end)->port = bpf_htons(bpf_ntohl(READ_CONTEXT(context, remote_port)));	\
	} while (0)

#endif
