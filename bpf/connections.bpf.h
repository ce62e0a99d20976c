/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* When an entry of `connections` goes. */
#ifndef MESHPATH_CONNECTIONS_BPF_H
#define MESHPATH_CONNECTIONS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "maps.bpf.h"

static __always_inline void delete_connection(const struct connection_key *key)
{
	struct activity *sums = get_activity();

	if (!bpf_map_delete_elem(&connections, key) && sums)
		__sync_fetch_and_add(&sums->live_connections, -1);
}

/*
 * The accepting side was told where the connection was to go, or closes and will not ask any more. Both call it: what
 * the connecting side leaves behind in the same moment as the one goes with the other.
 */
static __always_inline void settle_accepting(const struct socket_state *state)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &state->connection);

	if (!connection || connection->accepting_cookie != state->cookie)
		return;
	connection->is_answered = true;
	if (connection->is_left)
		delete_connection(&state->connection);
}

#endif
