/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* The maps of all programs, and the configuration that is fixed at load time. */
#ifndef MESHPATH_MAPS_BPF_H
#define MESHPATH_MAPS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "meshpath.h"

#define CONNECTIONS_MAX 65536
#define POD_ADDRESSES_MAX 4096
#define OWNERS_MAX 256
#define PORTS_MAX 65536
#define RANGES_MAX 16384
#define QUESTIONS_MAX 16384
#define EVENTS_BYTES (1 << 20)

const volatile struct mesh_profile profile;

/* Sockets whose messages may be redirected. A value of 8 bytes lets user space read socket cookies. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 2 * CONNECTIONS_MAX);
	__type(key, struct socket_key);
	__type(value, __u64);
} sockets SEC(".maps");

/* No LRU: an entry that went missing would be an original destination that nobody can answer. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNECTIONS_MAX);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

/* Connections whose connecting side is established and whose accepting side is not yet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNECTIONS_MAX);
	__type(key, struct handshake_key);
	__type(value, struct connection_key);
} handshakes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, POD_ADDRESSES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip_address);
	__type(value, struct pod_owner);
} pod_addresses SEC(".maps");

/* Ids of the cgroups of pods whose messages are not redirected any more, whichever end they are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, POD_ADDRESSES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32); /* not used: to be there is all that counts */
} stopped_pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OWNERS_MAX);
	__type(key, struct owner_key);
	__type(value, __u32); /* enum owner */
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32); /* enum port_list */
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, RANGES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct range_key);
	__type(value, __u32); /* not used: to be there is all that counts */
} ranges SEC(".maps");

/* The kernel makes an entry for each cgroup that a program is attached to; the key is the id of the cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct pod);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} socket_state SEC(".maps");

/* Apart from socket_state: every socket of a pod has it, also those that are never redirected. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_creator);
} socket_creators SEC(".maps");

/* Of UDP sockets that sent to port 53. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct datagram_state);
} datagram_state SEC(".maps");

/* UDP sockets that wait for an answer of the sidecar's resolver, by cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, QUESTIONS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct question);
} questions SEC(".maps");

/* Index: enum decision_reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DECISION_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Records: struct decision_event. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct activity);
} activity SEC(".maps");

static __always_inline struct activity *get_activity(void)
{
	__u32 index = 0;

	return bpf_map_lookup_elem(&activity, &index);
}

static __always_inline struct control *get_control(void)
{
	__u32 index = 0;

	return bpf_map_lookup_elem(&control, &index);
}

static __always_inline bool is_switched_off(void)
{
	struct control *entry = get_control();

	return !entry || entry->switched_off;
}

#endif
