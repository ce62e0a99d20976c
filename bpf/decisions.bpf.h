/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* Every decision is counted, and those that a person would ask about are told as events. */
#ifndef MESHPATH_DECISIONS_BPF_H
#define MESHPATH_DECISIONS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "maps.bpf.h"

static __always_inline void count_decision(__u32 reason)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter)
		*counter += 1;
}

/*
 * Says whether this many events may be told at this time: reading and showing them costs more than what they tell of.
 * Processors that come here together may let a few more through.
 */
static __always_inline bool may_send_event(__u64 now)
{
	struct activity *sums = get_activity();

	if (!profile.event_limit || !sums)
		return true;
	if (now - sums->window_boot_nanoseconds > EVENT_WINDOW_NANOSECONDS) {
		sums->window_boot_nanoseconds = now;
		sums->window_events = 0;
	}
	if (sums->window_events >= profile.event_limit)
		return false;
	sums->window_events += 1;
	return true;
}

/* Sends an event; its time is set here. */
static __noinline int send_event(struct decision_event *event)
{
	event->boot_nanoseconds = bpf_ktime_get_boot_ns();
	if (!may_send_event(event->boot_nanoseconds) || bpf_ringbuf_output(&events, event, sizeof(*event), 0))
		count_decision(DECISION_EVENTS_LOST);
	return 0;
}

/* Fills in what socket storage knows of a socket. */
static __always_inline void describe_socket(struct decision_event *event, const struct socket_state *state)
{
	event->socket_cookie = state->cookie;
	event->cgroup_id = state->cgroup_id;
	event->netns_cookie = state->netns_cookie;
	event->uid = state->uid;
	event->original = state->original;
}

/* Like describe_socket, with the ends of the connection that the socket belongs to. */
static __always_inline void describe_connected_socket(struct decision_event *event, const struct socket_state *state)
{
	describe_socket(event, state);
	event->local.address = state->peer.remote;
	event->local.port = state->peer.remote_port;
	event->remote.address = state->peer.local;
	event->remote.port = state->peer.local_port;
}

#endif
