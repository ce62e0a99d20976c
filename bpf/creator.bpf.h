/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * Who makes a socket. The mesh's rules (-m owner, net/netfilter/xt_owner.c) ask for the process that called socket(2),
 * whoever connects it later: a server that drops its rights, or a socket that is handed on.
 */
#ifndef MESHPATH_CREATOR_BPF_H
#define MESHPATH_CREATOR_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "maps.bpf.h"

static __always_inline struct socket_creator get_current_process(void)
{
	__u64 ids = bpf_get_current_uid_gid();
	struct socket_creator process = { .uid = (__u32)ids, .gid = (__u32)(ids >> 32) };

	return process;
}

/* Gives the creator; for a socket that was made before the program was attached, the process that acts on it now. */
static __always_inline struct socket_creator get_creator(struct bpf_sock *sk)
{
	struct socket_creator *creator = bpf_sk_storage_get(&socket_creators, sk, 0, 0);

	return creator ? *creator : get_current_process();
}

SEC("cgroup/sock_create")
int meshpath_sock_create(struct bpf_sock *sk)
{
	struct socket_creator process = get_current_process();

	/* Where there is no memory for it, the process that connects is asked instead. */
	if (sk->type == SOCK_STREAM || sk->type == SOCK_DGRAM)
		bpf_sk_storage_get(&socket_creators, sk, &process, BPF_SK_STORAGE_GET_F_CREATE);
	return ALLOW;
}

#endif
