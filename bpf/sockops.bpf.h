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
#include "connections.bpf.h"
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

/*
 * The network namespace. Without its cookie the pod's cgroup has to do; as that may hold processes of more than one
 * namespace, a tuple in it is not trusted then (find_accepted): only the sequence numbers of a handshake are.
 */
static __always_inline __u64 get_namespace(__u64 netns_cookie, __u64 cgroup_id)
{
	return profile.has_netns_cookie ? netns_cookie : cgroup_id;
}

/* What tells apart connections that have the same tuple. */
static __always_inline __u64 get_scope(const struct endpoint *local, const struct endpoint *remote,
				       __u64 netns_cookie, __u64 cgroup_id)
{
	return is_between_pods(local, remote) ? 0 : get_namespace(netns_cookie, cgroup_id);
}

static __always_inline void set_socket_key(struct socket_key *key, __u64 connecting_cookie,
					   const struct ip_address *local, __be16 local_port,
					   const struct ip_address *remote, __be16 remote_port)
{
	key->connecting_cookie = connecting_cookie;
	key->local = *local;
	key->remote = *remote;
	key->local_port = local_port;
	key->remote_port = remote_port;
	key->reserved = 0;
}

/* Gives the keys in `sockets` of both ends of a connection, by its ends as the connecting side sees them. */
static __always_inline void set_connecting_key(struct socket_key *key, const struct connection_key *connection,
					       __u64 connecting_cookie)
{
	set_socket_key(key, connecting_cookie, &connection->source, connection->source_port, &connection->destination,
		       connection->destination_port);
}

static __always_inline void set_accepting_key(struct socket_key *key, const struct connection_key *connection,
					      __u64 connecting_cookie)
{
	set_socket_key(key, connecting_cookie, &connection->destination, connection->destination_port,
		       &connection->source, connection->source_port);
}

static __always_inline void set_handshake_key(struct handshake_key *key, const struct endpoint *destination,
					      __u64 netns_cookie, __u32 connecting_sequence, __u32 accepting_sequence)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->netns_cookie = netns_cookie;
	key->destination = destination->address;
	key->destination_port = destination->port;
	key->connecting_sequence = connecting_sequence;
	key->accepting_sequence = accepting_sequence;
}

/*
 * What tells apart handshakes to the same address. Whether that was registered when the connection was opened counts: a pod
 * may be turned off while its handshakes are under way.
 */
static __always_inline __u64 get_handshake_scope(const struct socket_state *state)
{
	return state->is_to_pod ? 0 : get_namespace(state->netns_cookie, state->cgroup_id);
}

/* Writes the connection down; gives 0 or a negative errno. */
static __always_inline int add_connection(const struct connection_key *key, const struct connection *connection)
{
	struct activity *sums = get_activity();
	int error = bpf_map_update_elem(&connections, key, connection, BPF_NOEXIST);

	if (error == -EEXIST)
		return bpf_map_update_elem(&connections, key, connection, BPF_EXIST);
	if (!error && sums)
		__sync_fetch_and_add(&sums->live_connections, 1);
	return error;
}

static __always_inline void remove_connection(const struct socket_state *state, const struct endpoint *remote)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &state->connection);
	struct handshake_key handshake;

	/* Unless a newer connection has the same key. */
	if (!connection || connection->connecting_cookie != state->cookie)
		return;
	if (!connection->accepting_cookie && connection->connecting_sequence) {
		set_handshake_key(&handshake, remote, get_handshake_scope(state), connection->connecting_sequence,
				  connection->accepting_sequence);
		bpf_map_delete_elem(&handshakes, &handshake);
	}
	if (connection->is_rewritten && connection->accepting_cookie && !connection->is_answered) {
		connection->is_left = true;
		return;
	}
	delete_connection(&state->connection);
}

static __always_inline void watch_state(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, READ_CONTEXT(ctx, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Before the SYN. Gives the reason to report, or DECISION_COUNTERS for none. */
static __always_inline __u32 on_connect(struct bpf_sock_ops *ctx, struct socket_state *state,
					const struct endpoint *local, const struct endpoint *remote, int *error)
{
	struct connection connection = {};
	__u64 scope = get_scope(local, remote, state->netns_cookie, state->cgroup_id);

	state->is_to_pod = is_pod_address(&remote->address);
	set_connection_key(&state->connection, local, remote, scope);
	set_accepting_key(&state->peer, &state->connection, state->cookie);
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
	watch_state(ctx);
	return DECISION_COUNTERS;
}

static __always_inline __u32 on_active_established(struct bpf_sock_ops *ctx, struct socket_state *state,
						   const struct endpoint *remote, int *error)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &state->connection);
	struct handshake_key handshake;
	struct socket_key key;

	if (!connection || connection->connecting_cookie != state->cookie)
		return DECISION_COUNTERS;
	if (!connection->accepting_cookie) {
		connection->accepting_sequence = READ_CONTEXT(ctx, rcv_nxt);
		connection->connecting_sequence = READ_CONTEXT(ctx, snd_nxt);
		set_handshake_key(&handshake, remote, get_handshake_scope(state), connection->connecting_sequence,
				  connection->accepting_sequence);
		bpf_map_update_elem(&handshakes, &handshake, &state->connection, BPF_ANY);
	}
	if (is_switched_off())
		return DECISION_COUNTERS;
	set_connecting_key(&key, &state->connection, state->cookie);
	*error = bpf_sock_hash_update(ctx, &sockets, &key, BPF_ANY);
	if (*error)
		return DECISION_ENROL_FAILED;
	connection->is_connecting_enrolled = true;
	return DECISION_ENROLLED_ACTIVE;
}

/*
 * Finds the connection that is being accepted and sets its key: by its handshake; or by its tuple where the connecting
 * side is not established yet (TCP Fast Open).
 */
static __always_inline struct connection *find_accepted(struct bpf_sock_ops *ctx, const struct endpoint *local,
							const struct endpoint *remote, __u64 netns_cookie,
							__u64 cgroup_id, struct connection_key *key)
{
	struct connection *connection;
	struct handshake_key handshake;
	struct connection_key *found;

	set_handshake_key(&handshake, local, get_namespace(netns_cookie, cgroup_id), READ_CONTEXT(ctx, rcv_nxt),
			  READ_CONTEXT(ctx, snd_nxt));
	found = bpf_map_lookup_elem(&handshakes, &handshake);
	if (!found) {
		/* To an address that is, or until a moment ago was, registered. */
		handshake.netns_cookie = 0;
		found = bpf_map_lookup_elem(&handshakes, &handshake);
	}
	if (found) {
		*key = *found;
		bpf_map_delete_elem(&handshakes, &handshake);
		return bpf_map_lookup_elem(&connections, key);
	}
	set_connection_key(key, remote, local, get_scope(local, remote, netns_cookie, cgroup_id));
	if (key->netns_cookie && !profile.has_netns_cookie)
		return 0;
	connection = bpf_map_lookup_elem(&connections, key);
	return connection && !connection->connecting_sequence ? connection : 0;
}

static __always_inline __u32 on_passive_established(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
						    struct socket_state **created, const struct pod *pod,
						    const struct endpoint *local, const struct endpoint *remote,
						    int *error)
{
	__u64 netns_cookie = get_netns_cookie(ctx);
	struct connection *connection;
	struct socket_state *state;
	struct connection_key connection_key;
	struct socket_key key;

	connection = find_accepted(ctx, local, remote, netns_cookie, pod->cgroup_id, &connection_key);
	if (!connection)
		return DECISION_COUNTERS;
	state = bpf_sk_storage_get(&socket_state, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state)
		return DECISION_FAILED_STORAGE;
	*created = state;
	state->connection = connection_key;
	set_connecting_key(&state->peer, &connection_key, connection->connecting_cookie);
	state->original = connection->original;
	state->cookie = bpf_get_socket_cookie(ctx);
	state->cgroup_id = pod->cgroup_id;
	state->netns_cookie = netns_cookie;
	state->uid = UID_UNKNOWN;
	state->is_rewritten = connection->is_rewritten;
	connection->accepting_cookie = state->cookie;
	connection->accepting_cgroup_id = state->cgroup_id;
	connection->accepting_netns_cookie = netns_cookie;
	if (state->is_rewritten)
		watch_state(ctx);
	if (is_switched_off())
		return DECISION_COUNTERS;
	set_accepting_key(&key, &connection_key, connection->connecting_cookie);
	*error = bpf_sock_hash_update(ctx, &sockets, &key, BPF_ANY);
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
		if (!state)
			return SOCKOPS_DONE;
		if (!state->is_connecting) {
			if (operation == BPF_SOCK_OPS_STATE_CB)
				settle_accepting(state);
			return SOCKOPS_DONE;
		}
		READ_ENDS(ctx, &event.local, &event.remote);
		if (operation == BPF_SOCK_OPS_TCP_CONNECT_CB) {
			reason = on_connect(ctx, state, &event.local, &event.remote, &error);
		} else if (operation == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
			reason = on_active_established(ctx, state, &event.remote, &error);
		} else {
			remove_connection(state, &event.remote);
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
