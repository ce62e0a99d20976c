import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { suite, test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { CgroupPath, Endpoint, NamespaceId } from '../../agent/protocol/scalars.ts';
import { loadObject, mapNamed } from './loadedObject.ts';
import type { LoadedObject } from './loadedObject.ts';
import { readBpfObject } from './object.ts';
import { seededRandom } from './random.ts';
import { SocketKernel } from './socketKernel.ts';
import type { KernelSocket } from './sockets.ts';

const POD = { cgroup: '/pod' as CgroupPath, id: 7n, namespace: '1' as NamespaceId };

const HEADER = `
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
`;

function at(address: string, port: number): Endpoint {
  return { address: toIpAddress(address), port: toPortNumber(port) };
}

function compile(source: string): Uint8Array {
  const folders = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map((name) => `/usr/include/${name}`).filter((path) => existsSync(path));
  const options = ['-target', 'bpfel', '-mcpu=v3', '-O2', '-g', '-Wall', '-Werror', ...folders.slice(0, 1).flatMap((path) => ['-isystem', path])];
  return execFileSync('clang', [...options, '-x', 'c', '-c', '-', '-o', '-'], { input: `${HEADER}${source}`, maxBuffer: 1 << 22 });
}

/** Loads programs and attaches all of them to the cgroup of the pod. */
function attach(source: string): { readonly kernel: SocketKernel; readonly loaded: LoadedObject } {
  const loaded = loadObject(readBpfObject(compile(source)), { cpus: 1, contents: new Map() });
  const kernel = new SocketKernel({
    cpus: 1,
    bootNanoseconds: () => 1n,
    random: seededRandom(1),
    cgroupLine: () => [POD.id],
    netnsCookie: () => 3n,
    isLocalAddress: () => true,
    receivesDatagrams: () => true,
  });
  for (const program of loaded.object.programs) {
    kernel.attach({ loaded, program, target: { kind: 'cgroup', path: POD.cgroup, id: POD.id } });
  }
  return { kernel, loaded };
}

function open(kernel: SocketKernel, options: { readonly family: 2 | 10; readonly protocol?: 'tcp' | 'udp'; readonly uid?: number }): { readonly allowed: boolean; readonly socket: KernelSocket } {
  const uid = options.uid ?? 1000;
  const { allowed, socket, runs } = kernel.openSocket({
    namespace: POD.namespace,
    cgroup: POD.cgroup,
    owner: { pid: 1, command: 'app', uid, gid: uid, cgroupId: POD.id },
    family: options.family,
    protocol: options.protocol ?? 'tcp',
    local: null,
  });
  for (const { run } of runs) {
    assert.equal(run.outcome.kind, 'returned', JSON.stringify(run.outcome, (_key, value: unknown) => (typeof value === 'bigint' ? `${value}` : value)));
  }
  return { allowed, socket };
}

function missingForCompiling(): string | false {
  if (spawnSync('clang', ['--version']).error !== undefined) {
    return 'There is no clang';
  }
  return existsSync('/usr/include/bpf/bpf_helpers.h') ? false : 'There are no headers of libbpf';
}

suite('the hooks of sockets, with programs compiled here', { skip: missingForCompiling() }, () => {
  test('sock_create keeps who made a socket with it, may mark it, and may forbid it; accepted sockets are not seen', () => {
    const { kernel, loaded } = attach(`
      struct { __uint(type, BPF_MAP_TYPE_SK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int); __type(value, __u32); } owners SEC(".maps");
      SEC("cgroup/sock_create") int create(struct bpf_sock *ctx) {
        __u32 uid = (__u32)bpf_get_current_uid_gid();
        __u32 *owner = bpf_sk_storage_get(&owners, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
        if (owner)
          *owner = uid;
        ctx->mark = ctx->protocol;
        return uid != 99;
      }
    `);
    const owners = mapNamed(loaded, 'owners');
    const { allowed, socket } = open(kernel, { family: 10, protocol: 'udp', uid: 1337 });
    assert.equal(allowed, true);
    assert.equal(new DataView(socket.storage.get(owners)?.buffer ?? new ArrayBuffer(4)).getUint32(0, true), 1337);
    assert.deepEqual([socket.mark, socket.boundDevice], [17, 0]);
    assert.equal(open(kernel, { family: 2 }).socket.mark, 6);
    assert.equal(open(kernel, { family: 2, uid: 99 }).allowed, false);
    assert.equal(kernel.sockets().length, 2);
    const accepted = kernel.acceptSocket({ namespace: POD.namespace, cgroup: POD.cgroup, owner: socket.owner, family: 2, local: null });
    assert.equal(accepted.storage.size, 0);
  });

  test('an IPv6 socket meets the hooks of IPv6, also on its way to an IPv4-mapped address', () => {
    const { kernel } = attach(`
      SEC("cgroup/connect6") int to_loopback(struct bpf_sock_addr *ctx) {
        if (ctx->family != 10 || ctx->user_family != 10)
          return 0;
        ctx->user_ip6[0] = 0;
        ctx->user_ip6[1] = 0;
        /* ::ffff:127.0.0.1 for a mapped destination, else ::1. */
        ctx->user_ip6[3] = ctx->user_ip6[2] == bpf_htonl(0xffff) ? bpf_htonl(0x7f000001) : bpf_htonl(1);
        ctx->user_port = bpf_htons(15001);
        return 1;
      }
      SEC("cgroup/connect4") int never(struct bpf_sock_addr *ctx) { return ctx->user_ip4 == bpf_htonl(0x0a000001); }
      SEC("cgroup/getpeername6") int peer(struct bpf_sock_addr *ctx) {
        ctx->user_ip6[3] = bpf_htonl(0x2a);
        ctx->user_port = bpf_htons(443);
        return 1;
      }
    `);
    const { socket } = open(kernel, { family: 10 });
    assert.deepEqual(kernel.connect(socket, at('fd00::5', 80)).destination, at('::1', 15_001));
    assert.deepEqual(kernel.connect(socket, at('10.0.0.9', 80)).destination, at('127.0.0.1', 15_001));
    assert.equal(kernel.connect(open(kernel, { family: 2 }).socket, at('10.0.0.1', 80)).allowed, true);
    assert.equal(kernel.connect(open(kernel, { family: 2 }).socket, at('10.0.0.2', 80)).allowed, false);
    socket.remote = at('fd00::5', 80);
    assert.deepEqual(kernel.askPeerName(socket).answer, at('fd00::2a', 443));
  });

  test('datagrams: sendmsg of the family of the destination, recvmsg of the family of the socket', () => {
    const { kernel } = attach(`
      SEC("cgroup/sendmsg4") int send4(struct bpf_sock_addr *ctx) {
        if (ctx->type != 2 || ctx->protocol != 17 || ctx->user_port != bpf_htons(53))
          return 1;
        ctx->user_ip4 = bpf_htonl(0x7f000001);
        ctx->user_port = bpf_htons(15053);
        return 1;
      }
      SEC("cgroup/sendmsg6") int send6(struct bpf_sock_addr *ctx) { ctx->user_port = bpf_htons(1); return 1; }
      SEC("cgroup/recvmsg4") int receive4(struct bpf_sock_addr *ctx) {
        if (ctx->user_port != bpf_htons(15053))
          return 1;
        ctx->user_ip4 = bpf_htonl(0x08080808);
        ctx->user_port = bpf_htons(53);
        return 1;
      }
      SEC("cgroup/recvmsg6") int receive6(struct bpf_sock_addr *ctx) { ctx->user_port = bpf_htons(2); return 1; }
    `);
    const { socket } = open(kernel, { family: 2, protocol: 'udp' });
    const dual = open(kernel, { family: 10, protocol: 'udp' }).socket;
    assert.deepEqual(kernel.sendDatagram(socket, at('8.8.8.8', 53)).address, at('127.0.0.1', 15_053));
    assert.deepEqual(kernel.sendDatagram(socket, at('8.8.8.8', 54)).address, at('8.8.8.8', 54));
    assert.deepEqual(kernel.receiveDatagram(socket, at('127.0.0.1', 15_053)).address, at('8.8.8.8', 53));
    assert.deepEqual(kernel.sendDatagram(dual, at('8.8.8.8', 53)).address, at('127.0.0.1', 15_053));
    assert.deepEqual(kernel.sendDatagram(dual, at('fd00::1', 53)).address, at('fd00::1', 1));
    assert.deepEqual(kernel.receiveDatagram(dual, at('127.0.0.1', 15_053)).address, at('127.0.0.1', 2));
  });

  test('the original destination of an IPv6 connection is asked for at SOL_IPV6', () => {
    const { kernel } = attach(`
      struct sockaddr6 { __u16 family; __be16 port; __u32 flow; __u8 address[16]; __u32 scope; };
      SEC("cgroup/getsockopt") int answer(struct bpf_sockopt *ctx) {
        struct sockaddr6 *value = ctx->optval;
        if (ctx->level != 41 || ctx->optname != 80 || (void *)(value + 1) > ctx->optval_end)
          return 1;
        value->family = 10;
        value->port = bpf_htons(8080);
        value->address[0] = 0xfd;
        value->address[15] = 5;
        ctx->optlen = sizeof(*value);
        ctx->retval = 0;
        return 1;
      }
    `);
    const { socket } = open(kernel, { family: 10 });
    socket.local = at('::1', 15_006);
    assert.deepEqual(kernel.askOriginalDestination(socket, null).answer, at('fd00::5', 8080));
    socket.local = at('127.0.0.1', 15_006);
    assert.equal(kernel.askOriginalDestination(socket, null).answer, null);
    assert.deepEqual(kernel.askOriginalDestination(socket, at('10.0.0.1', 80)).answer, at('10.0.0.1', 80));
  });

  test('a trie finds the longest prefix, and /0 finds everything', () => {
    const { kernel, loaded } = attach(`
      struct key { __u32 bits; __be32 address; };
      struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 3); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, struct key); __type(value, __u32); } prefixes SEC(".maps");
      SEC("cgroup/connect4") int route(struct bpf_sock_addr *ctx) {
        struct key key = { .bits = 32, .address = ctx->user_ip4 };
        __u32 *port = bpf_map_lookup_elem(&prefixes, &key);
        if (port)
          ctx->user_port = bpf_htons(*port);
        return 1;
      }
    `);
    const prefixes = mapNamed(loaded, 'prefixes');
    assert.ok(prefixes.kind === 'lpm_trie');
    const prefix = (address: readonly number[], bits: number): Uint8Array => Uint8Array.from([bits, 0, 0, 0, ...address]);
    const value = (port: number): Uint8Array => Uint8Array.from([port & 0xff, port >> 8, 0, 0]);
    const destination = (address: string): number => kernel.connect(open(kernel, { family: 2 }).socket, at(address, 80)).destination.port;
    assert.equal(destination('10.1.2.3'), 80);
    assert.equal(prefixes.update(prefix([10, 0, 0, 0], 8), value(1008), 0n), 0);
    assert.equal(prefixes.update(prefix([10, 1, 0, 0], 15), value(1015), 0n), 0);
    assert.deepEqual([destination('10.1.2.3'), destination('10.2.2.3'), destination('11.0.0.1')], [1015, 1008, 80]);
    assert.equal(prefixes.update(prefix([0, 0, 0, 0], 0), value(1000), 0n), 0);
    assert.equal(destination('11.0.0.1'), 1000);
    // The bytes behind the prefix are no part of it.
    assert.equal(prefixes.update(prefix([10, 9, 9, 9], 8), value(1088), 1n), -17);
    assert.equal(prefixes.update(prefix([10, 9, 9, 9], 8), value(1088), 2n), 0);
    assert.equal(destination('10.2.2.3'), 1088);
    assert.equal(prefixes.update(prefix([12, 0, 0, 0], 8), value(1), 0n), -28);
    assert.equal(prefixes.update(prefix([10, 0, 0, 0], 33), value(1), 0n), -22);
    assert.equal(prefixes.delete(prefix([0, 0, 0, 0], 0)), 0);
    assert.equal(prefixes.delete(prefix([0, 0, 0, 0], 0)), -2);
    assert.equal(destination('11.0.0.1'), 80);
  });
});
