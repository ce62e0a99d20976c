/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The life of a TCP connection in an enrolled pod. The connecting side writes the connection down before its SYN is
 * sent, so that the accepting side finds it whenever that is established (with TCP Fast Open that comes first).
 */
#ifndef MESHPATH_SOCKOPS_BPF_H
#define MESHPATH_SOCKOPS_BPF_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>
#include "address.bpf.h"
#include "decisions.bpf.h"
#include "maps.bpf.h"

#define SOCKOPS_DONE 1

static __always_inline __u64 get_netns_cookie(struct bpf_sock_ops *ctx)
{
	return profile.has_netns_cookie ? bpf_get_netns_cookie(ctx) : 0;
}

static __always_inline bool is_pod_address(const struct ip_address *address)
{
	return bpf_map_lookup_elem(&pod_addresses, address);
}

static __always_inline bool is_between_pods(const struct endpoint *a, const struct endpoint *b)
{
	return is_pod_address(&a->address) && is_pod_address(&b->address);
}

static __always_inline void set_connection_key(struct connection_key *key, const struct endpoint *source,
					       const struct endpoint *destination, __u64 netns_cookie)
{
	key->netns_cookie = netns_cookie;
	key->source = source->address;
	key->destination = destination->address;
	key->source_port = source->port;
	key->destination_port = destination->port;
	key->reserved = 0;
}

static __always_inline void set_socket_key(struct socket_key *key, const struct endpoint *local,
					   const struct endpoint *remote, __u64 netns_cookie)
{
	key->netns_cookie = netns_cookie;
	key->local = local->address;
	key->remote = remote->address;
	key->local_port = local->port;
	key->remote_port = remote->port;
	key->reserved = 0;
}

/*
 * What tells apart connections that have the same tuple. Without the cookie of the namespace the pod's cgroup does; but
 * as a cgroup may hold processes of more than one namespace, such connections are not redirected (can_redirect).
 */
static __always_inline __u64 get_scope(const struct endpoint *local, const struct endpoint *remote,
				       __u64 netns_cookie, const struct pod *pod)
{
	if (is_between_pods(local, remote))
		return 0;
	return profile.has_netns_cookie ? netns_cookie : pod->cgroup_id;
}

static __always_inline bool can_redirect(const struct connection_key *key)
{
	return profile.has_netns_cookie || !key->netns_cookie;
}

/* Puts the socket into `sockets`. Gives 0 or a negative errno. */
static __always_inline int enrol(struct bpf_sock_ops *ctx, const struct endpoint *local,
				 const struct endpoint *remote, __u64 scope)
{
	struct socket_key key;

	set_socket_key(&key, local, remote, scope);
	return bpf_sock_hash_update(ctx, &sockets, &key, BPF_ANY);
}

/* Writes the connection down; gives 0 or a negative errno. */
static __always_inline int add_connection(const struct connection_key *key, const struct connection *connection)
{
	struct control *switches = get_control();
	int error = bpf_map_update_elem(&connections, key, connection, BPF_NOEXIST);

	if (error == -EEXIST)
		return bpf_map_update_elem(&connections, key, connection, BPF_EXIST);
	if (!error && switches)
		__sync_fetch_and_add(&switches->live_connections, 1);
	return error;
}

static __always_inline void remove_connection(const struct socket_state *state)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &state->connection);
	struct control *switches = get_control();

	/* Unless a newer connection has the same key. */
	if (!connection || connection->connecting_cookie != state->cookie)
		return;
	if (!bpf_map_delete_elem(&connections, &state->connection) && switches)
		__sync_fetch_and_add(&switches->live_connections, -1);
}

/* Before the SYN. Gives the reason to report, or DECISION_COUNTERS for none. */
static __always_inline __u32 on_connect(struct bpf_sock_ops *ctx, struct socket_state *state, const struct pod *pod,
					const struct endpoint *local, const struct endpoint *remote, int *error)
{
	struct connection connection = {};
	__u64 scope = get_scope(local, remote, state->netns_cookie, pod);

	set_connection_key(&state->connection, local, remote, scope);
	set_socket_key(&state->peer, remote, local, scope);
	connection.original = state->original;
	connection.is_rewritten = state->is_rewritten;
	connection.opened_boot_nanoseconds = bpf_ktime_get_boot_ns();
	connection.connecting_cookie = state->cookie;
	connection.connecting_cgroup_id = state->cgroup_id;
	connection.connecting_netns_cookie = state->netns_cookie;
	connection.connecting_uid = state->uid;
	*error = add_connection(&state->connection, &connection);
	if (*error)
		return DECISION_CONNECTIONS_FULL;
	bpf_sock_ops_cb_flags_set(ctx, READ_CONTEXT(ctx, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG);
	return DECISION_COUNTERS;
}

static __always_inline __u32 on_active_established(struct bpf_sock_ops *ctx, struct socket_state *state,
						   const struct endpoint *local, const struct endpoint *remote,
						   int *error)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &state->connection);

	if (!connection || connection->connecting_cookie != state->cookie || !can_redirect(&state->connection) ||
	    is_switched_off())
		return DECISION_COUNTERS;
	*error = enrol(ctx, local, remote, state->connection.netns_cookie);
	if (*error)
		return DECISION_ENROL_FAILED;
	connection->is_connecting_enrolled = true;
	return DECISION_ENROLLED_ACTIVE;
}

static __always_inline __u32 on_passive_established(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
						    struct socket_state **created, const struct pod *pod,
						    const struct endpoint *local, const struct endpoint *remote,
						    int *error)
{
	struct connection *connection;
	struct socket_state *state;
	struct connection_key key;
	__u64 netns_cookie = get_netns_cookie(ctx);
	__u64 scope = get_scope(local, remote, netns_cookie, pod);

	set_connection_key(&key, remote, local, scope);
	connection = bpf_map_lookup_elem(&connections, &key);
	if (!connection)
		return DECISION_COUNTERS;
	state = bpf_sk_storage_get(&socket_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state)
		return DECISION_FAILED_STORAGE;
	*created = state;
	state->connection = key;
	set_socket_key(&state->peer, remote, local, scope);
	state->original = connection->original;
	state->cookie = bpf_get_socket_cookie(ctx);
	state->cgroup_id = pod->cgroup_id;
	state->netns_cookie = netns_cookie;
	state->uid = UID_UNKNOWN;
	state->is_rewritten = connection->is_rewritten;
	connection->accepting_cookie = state->cookie;
	connection->accepting_cgroup_id = state->cgroup_id;
	connection->accepting_netns_cookie = netns_cookie;
	if (!can_redirect(&key) || is_switched_off())
		return DECISION_COUNTERS;
	*error = enrol(ctx, local, remote, scope);
	if (*error)
		return DECISION_ENROL_FAILED;
	connection->is_accepting_enrolled = true;
	return DECISION_ENROLLED_PASSIVE;
}

SEC("sockops")
int meshpath_sockops(struct bpf_sock_ops *ctx)
{
	struct decision_event event = { .hook = DECISION_HOOK_SOCKOPS, .uid = UID_UNKNOWN };
	struct socket_state *state;
	struct bpf_sock *sk;
	struct pod *pod;
	__u32 reason = DECISION_COUNTERS;
	__u32 operation = READ_CONTEXT(ctx, op);
	int error = 0;

	if (operation != BPF_SOCK_OPS_TCP_CONNECT_CB && operation != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    operation != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && operation != BPF_SOCK_OPS_STATE_CB)
		return SOCKOPS_DONE;
	if (operation == BPF_SOCK_OPS_STATE_CB && READ_CONTEXT(ctx, args[1]) != BPF_TCP_CLOSE)
		return SOCKOPS_DONE;
	sk = ctx->sk;
	if (!sk)
		return SOCKOPS_DONE;
	pod = bpf_get_local_storage(&pods, 0);
	state = bpf_sk_storage_get(&socket_state, sk, 0, 0);

	if (operation == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		if (!pod->cgroup_id)
			return SOCKOPS_DONE;
		READ_ENDS(ctx, &event.local, &event.remote);
		reason = on_passive_established(ctx, sk, &state, pod, &event.local, &event.remote, &error);
	} else {
		if (!state || !state->is_connecting)
			return SOCKOPS_DONE;
		READ_ENDS(ctx, &event.local, &event.remote);
		if (operation == BPF_SOCK_OPS_TCP_CONNECT_CB) {
			reason = on_connect(ctx, state, pod, &event.local, &event.remote, &error);
		} else if (operation == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
			reason = on_active_established(ctx, state, &event.local, &event.remote, &error);
		} else {
			remove_connection(state);
			state->is_connecting = false;
			state->is_rewritten = false;
			reason = DECISION_CONNECTION_CLOSED;
		}
	}
	if (reason >= DECISION_COUNTERS)
		return SOCKOPS_DONE;
	count_decision(reason);
	event.reason = reason;
	event.error = -error;
	if (state)
		describe_socket(&event, state);
	send_event(&event);
	return SOCKOPS_DONE;
}

#endif
