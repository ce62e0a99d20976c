/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * What the programs in the kernel share with whoever loads, reads or simulates them. Every structure has its padding
 * written out, so that keys compare byte by byte. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, so that the two ends
 * of one connection name it alike whatever their address families are (a listener on [::] accepts IPv4 too).
 */
#ifndef MESHPATH_H
#define MESHPATH_H

#include <stdbool.h>
#include <linux/types.h>

/* IPv6, or IPv4 as an IPv4-mapped address; network order. All zero: none. */
struct ip_address {
	__be32 word[4];
};

struct endpoint {
	struct ip_address address;
	__be16 port;
	__u16 reserved;
};

/*
 * A connection as the connecting side sees it; key of `connections`. netns_cookie is that of the network namespace,
 * or 0 where both addresses are registered in `pod_addresses`: those are unique on the node, all others
 * (127.0.0.1) are not, and without the namespace bytes could reach another pod. On kernels without
 * bpf_get_netns_cookie in sockops (before 5.15) it is the id of the pod's cgroup.
 */
struct connection_key {
	__u64 netns_cookie;
	struct ip_address source;
	struct ip_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 reserved;
};

/*
 * A socket: key of `sockets`. The cookie is that of the connecting socket, for either end: the tuple alone may come
 * again while the accepting end still holds bytes that nobody has read, and an entry that is replaced takes them along.
 */
struct socket_key {
	__u64 connecting_cookie;
	struct ip_address local;
	struct ip_address remote;
	__be16 local_port;
	__be16 remote_port;
	__u32 reserved;
};

/*
 * The handshake of a connection; key of `handshakes`. Where conntrack remembers an older connection that netfilter
 * redirected from the same port, it gives a new one another source port on its way (nf_nat_alloc_null_binding), and the
 * accepting side cannot find it by its tuple. The two initial sequence numbers stay as they are. netns_cookie is as in
 * struct connection_key, and 0 where the destination is registered in `pod_addresses`.
 */
struct handshake_key {
	__u64 netns_cookie;
	struct ip_address destination;
	__u32 connecting_sequence; /* the first number after the SYN */
	__u32 accepting_sequence;
	__be16 destination_port;
	__u16 reserved[3];
};

/*
 * Value of `connections`: from the SYN until the connecting socket closes. Where it was rewritten and the accepting side
 * has not asked yet where it was to go, until that asks or closes: a client may send all it has and leave before.
 */
struct connection {
	struct endpoint original; /* what connect(2) was asked for, where it was rewritten */
	/* Each of these is written by one side only: bytes of their own need no atomic operations (Linux 5.12). */
	bool is_rewritten;
	bool is_connecting_enrolled; /* the connecting socket is in `sockets` */
	bool is_accepting_enrolled; /* the accepting socket is in `sockets` */
	bool is_answered; /* the accepting side was told the original destination */
	__u64 opened_boot_nanoseconds;
	__u64 connecting_cookie; /* socket cookies */
	__u64 accepting_cookie; /* 0: not accepted yet */
	__u64 connecting_cgroup_id; /* of the pods */
	__u64 accepting_cgroup_id;
	__u64 connecting_netns_cookie;
	__u64 accepting_netns_cookie;
	/* Bytes that were redirected to one side since that side last sent something. */
	__u64 unread_by_accepting;
	__u64 unread_by_connecting;
	__u32 connecting_sequence; /* as in struct handshake_key; 0: the connecting side is not established yet */
	__u32 accepting_sequence;
	__u32 connecting_uid;
	bool is_switched_off; /* set by user space: its messages are not redirected any more */
	bool is_left; /* the connecting socket has closed; the accepting side still has to be told */
	/* What the last message of each side met: enum decision_reason; 0: it sent none. */
	__u8 connecting_messages;
	__u8 accepting_messages;
	/* Bytes of each side that were redirected. */
	__u64 redirected_by_connecting;
	__u64 redirected_by_accepting;
};

/* Socket storage; value of `socket_state`. */
struct socket_state {
	struct connection_key connection;
	struct socket_key peer; /* key of the other end in `sockets` */
	struct endpoint original;
	/* Bytes of their own: a system call on the socket may set one while a message sets another. */
	bool is_connecting; /* this is the side that connects */
	bool is_rewritten; /* connect(2) was rewritten; `original` is what was asked for */
	bool is_redirecting; /* a message of it was redirected */
	bool is_passing; /* its messages go through TCP until it closes, for `pass_reason` */
	__u64 cookie;
	__u64 cgroup_id;
	__u64 netns_cookie;
	__u32 uid;
	__u32 pass_reason; /* enum decision_reason */
	bool is_answered; /* getsockopt or getpeername was answered and told as an event */
	bool is_to_pod; /* the address that it connects to was registered in `pod_addresses` */
	__u8 reserved[6];
};

/* Socket storage; value of `socket_creators`: the process that made the socket. */
struct socket_creator {
	__u32 uid;
	__u32 gid;
};

#define RESOLVER_SLOTS 8

/* Socket storage; value of `datagram_state`: what a UDP socket asked whom. */
struct datagram_state {
	/* Whom answers are from that come from the address of each slot (bpf/datagram.bpf.h); address all zero: free. */
	struct endpoint resolvers[RESOLVER_SLOTS];
	struct ip_address own_address; /* what getsockname(2) is told instead of loopback; all zero: nothing else */
	struct endpoint told_remote; /* of the question that was last told as an event */
	__u32 told; /* enum decision_reason of it + 1 */
	__u32 told_hooks; /* bits by enum decision_hook: answers that were told as events */
	__u32 unanswered; /* questions that nobody has read an answer to */
	bool is_connected; /* connect(2) was sent to the sidecar's resolver */
	__u8 reserved[7];
};

/* A socket that waits for an answer; value of `questions`, of which the key is the cookie of the socket. */
struct question {
	__u64 asked_boot_nanoseconds; /* the last of them */
	__u64 cgroup_id; /* of the pod */
	struct endpoint resolver;
	__u32 reserved;
};

/* A pod; value of `pods`. All zero until the agent filled it in: cgroup_id is never 0. */
struct pod {
	__u64 cgroup_id;
	/* What its connections come from: its first IPv4 and its first IPv6 address; all zero: it has none. */
	struct ip_address source;
	struct ip_address source6;
};

/* Key of `owners`: whose connections the mesh does not send to the sidecar. */
struct owner_key {
	__u32 kind; /* enum owner_kind */
	__u32 id;
};

enum owner_kind {
	OWNER_KIND_UID,
	OWNER_KIND_GID,
};

/* Value of `owners`. Only the one who is named first has connections to the own pod sent to the inbound port. */
enum owner {
	OWNER_APPLICATION, /* in no entry */
	OWNER_SIDECAR,
	OWNER_PASSED,
};

/* Value of `ports`, of which the key is a destination port in host order: the lists that it is in. */
enum port_list {
	PORT_EXCLUDED_OUTBOUND = 1,
	PORT_EXCLUDED_INBOUND = 2,
	PORT_TUNNEL = 4, /* excluded inbound and of the sidecar's connections to its own pod */
	PORT_INCLUDED_OUTBOUND = 8,
	PORT_INCLUDED_INBOUND = 16,
};

/* Key of `ranges`. Outbound ranges are of destinations, inbound ranges of sources. */
struct range_key {
	__u32 prefix_bits; /* of what follows: the first 32 always */
	__u16 list; /* enum range_list */
	__u16 is_ipv4; /* ::/0 does not hold IPv4 addresses */
	struct ip_address address;
};

enum range_list {
	RANGE_EXCLUDED_OUTBOUND,
	RANGE_INCLUDED_OUTBOUND,
	RANGE_EXCLUDED_INBOUND,
	RANGE_INCLUDED_INBOUND,
	RANGE_RESOLVERS, /* to which questions are sent to the sidecar's resolver instead */
};

/* Value of `pod_addresses`: whose address the key (struct ip_address) is. */
struct pod_owner {
	__u64 cgroup_id;
	/* Where REDIRECT in PREROUTING sends what comes for it: the first address of the pod of its family. */
	struct ip_address inbound;
};

/* The one entry of `control`; written by user space only. */
struct control {
	__u32 switched_off; /* not 0: no new connection is touched, and no message is redirected any more */
	__u32 stopped_pods; /* entries in `stopped_pods` */
};

/* The one entry of `activity`; written by the programs only. */
struct activity {
	__u64 live_connections; /* entries in `connections` */
	__u64 window_boot_nanoseconds; /* when the first of the events came that are counted against the limit */
	__u32 window_events;
	__u32 reserved;
};

#define EVENT_WINDOW_NANOSECONDS 100000000

#define UID_UNKNOWN 0xffffffff

/* `.rodata`: what the mesh looks like, and limits; set before the programs are loaded. Ports in host order. */
struct mesh_profile {
	__u64 unread_limit; /* bytes redirected one way without an answer; 0: no limit */
	__u64 connection_limit; /* connections after which new ones are left to iptables; below the size of the map */
	__u32 event_limit; /* events in EVENT_WINDOW_NANOSECONDS after which the others are counted only; 0: no limit */
	__u32 reserved_limits;
	struct ip_address passthrough_source; /* IPv4; all zero: none */
	struct ip_address passthrough_source6;
	__u16 outbound_port;
	__u16 inbound_port;
	bool has_netns_cookie; /* sockops programs may call bpf_get_netns_cookie (Linux 5.15) */
	bool redirects_own; /* the sidecar's connections to its own pod are sent to the inbound port */
	bool has_ranges_first; /* excluded outbound ranges come before the owner's rules */
	bool has_ranges; /* there is something in `ranges` */
	bool has_included_outbound; /* only what is in a list of included ports or ranges is redirected */
	bool has_included_inbound;
	__u16 dns_port; /* where the sidecar answers DNS on loopback; 0: it does not */
	bool has_resolvers; /* only questions to resolvers of the list are sent there */
	bool excludes_datagrams; /* DNS over UDP is in the list of excluded ports */
	bool has_ports_first; /* excluded outbound ports come before the owner's rules */
	__u8 reserved;
};

enum decision_hook {
	DECISION_HOOK_CONNECT4,
	DECISION_HOOK_SOCKOPS,
	DECISION_HOOK_SK_MSG,
	DECISION_HOOK_GETSOCKOPT,
	DECISION_HOOK_GETPEERNAME4,
	DECISION_HOOK_CONNECT6,
	DECISION_HOOK_GETPEERNAME6,
	DECISION_HOOK_SENDMSG4,
	DECISION_HOOK_SENDMSG6,
	DECISION_HOOK_RECVMSG4,
	DECISION_HOOK_RECVMSG6,
	DECISION_HOOK_GETSOCKNAME4,
	DECISION_HOOK_GETSOCKNAME6,
};

enum decision_reason {
	DECISION_REDIRECTED_TO_OUTBOUND,
	DECISION_REDIRECTED_TO_INBOUND,
	DECISION_SIDECAR_TO_APPLICATION,
	DECISION_PASSED_LOOPBACK,
	DECISION_PASSED_OWN_ADDRESS,
	DECISION_PASSED_EXCLUDED_PORT,
	DECISION_PASSED_EXCLUDED_RANGE,
	DECISION_PASSED_NOT_INCLUDED,
	DECISION_PASSED_LINK_LOCAL,
	DECISION_PASSED_PEER_NOT_ENROLLED,
	DECISION_PASSED_NOT_CONFIGURED,
	DECISION_PASSED_BIND_FAILED,
	DECISION_PASSED_SWITCHED_OFF,
	DECISION_FAILED_STORAGE,
	DECISION_ENROLLED_ACTIVE,
	DECISION_ENROLLED_PASSIVE,
	DECISION_ENROL_FAILED,
	DECISION_CONNECTIONS_FULL,
	DECISION_MESSAGE_REDIRECTED,
	DECISION_MESSAGE_PASSED_PEER_MISSING,
	DECISION_MESSAGE_PASSED_UNREAD_LIMIT,
	DECISION_MESSAGE_PASSED_SWITCHED_OFF,
	DECISION_ANSWERED_ORIGINAL_DESTINATION,
	DECISION_ANSWERED_PEER_NAME,
	DECISION_CONNECTION_CLOSED,
	DECISION_REDIRECTED_TO_RESOLVER,
	DECISION_QUESTION_PASSED_SIDECAR,
	DECISION_QUESTION_PASSED_OLDER_SOCKET,
	DECISION_QUESTION_PASSED_NO_RESOLVER,
	DECISION_QUESTION_PASSED_AMBIGUOUS,
	DECISION_QUESTION_PASSED_FULL,
	DECISION_ANSWERED_RESOLVER,
	DECISION_ANSWERED_OWN_NAME,
	/* Not a decision: events beyond the limit, or that `events` had no room for. Last in `counters`. */
	DECISION_EVENTS_LOST,
};

#define DECISION_COUNTERS (DECISION_EVENTS_LOST + 1)

/* A record of `events`. The tuple is that of the socket after any rewrite; ports and addresses may be 0: not known. */
struct decision_event {
	__u64 boot_nanoseconds;
	__u64 socket_cookie;
	__u64 cgroup_id;
	__u64 netns_cookie;
	struct endpoint local;
	struct endpoint remote;
	struct endpoint original; /* address all zero: none */
	enum decision_hook hook;
	enum decision_reason reason;
	__u32 error; /* positive errno, 0: none */
	__u32 uid; /* UID_UNKNOWN: not known */
	__u32 bytes;
};

#endif
