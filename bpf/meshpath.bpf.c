// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * Meshpath's programs as one object: they share their maps. One object serves every mesh and every kernel since 5.10;
 * what differs is set in `profile` before it is loaded.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "connect.bpf.h"
#include "creator.bpf.h"
#include "datagram.bpf.h"
#include "message.bpf.h"
#include "names.bpf.h"
#include "sockops.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
