import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { ISTIO_PROFILE } from '../protocol/acceleration.ts';
import type { CgroupPath, NamespaceId } from '../protocol/scalars.ts';
import { toPortNumber } from '../protocol/scalars.ts';
import { toIpAddress } from '../protocol/ipAddress.ts';
import { parseConntrackLine } from './conntrackList.ts';
import { parseLinks, parseNamespaceNames, parseRoutes, parseRoutingRules, parseTableNames } from './ipJson.ts';
import { parseSysctls } from './networkNamespace.ts';
import type { ReadNamespace } from './networkNamespace.ts';
import { detectProfile, findPods, podCgroups } from './pods.ts';
import { parseCgroup2, parseFilesystemGid, parseNamespaceLink } from './processScan.ts';
import { parseSocketLine } from './socketList.ts';
import { joinPeers } from './takeSnapshot.ts';

describe('ip -j', () => {
  it('devices: kind, flags, addresses and the other end of a veth', () => {
    const json = JSON.stringify([
      { ifindex: 1, ifname: 'lo', flags: ['LOOPBACK', 'UP'], mtu: 65_536, link_type: 'loopback', address: '00:00:00:00:00:00', addr_info: [{ family: 'inet', local: '127.0.0.1', prefixlen: 8, scope: 'host' }] },
      {
        ifindex: 2, link_index: 5, link_netnsid: 0, ifname: 'eth0', flags: ['BROADCAST'], mtu: 1_500, link_type: 'ether', address: '22:71:ab:b0:a0:8f', master: 'br0',
        linkinfo: { info_kind: 'veth' },
        addr_info: [{ family: 'inet6', local: 'fe80::1', prefixlen: 64, scope: 'link' }, { family: 'inet', local: 'not an address', prefixlen: 24, scope: 'global' }],
      },
      { ifname: 'a device without an index' },
    ]);
    const [lo, eth0, ...others] = parseLinks(json);
    assert.deepEqual(others, []);
    assert.deepEqual(lo, {
      index: 1, name: 'lo', kind: 'loopback', up: true, mtu: 65_536, macAddress: null, master: null, peerIndex: null, peerIsElsewhere: false, peerNamespaceName: null,
      addresses: [{ address: '127.0.0.1', prefixLength: 8, scope: 'host' }],
    });
    assert.deepEqual(eth0, {
      index: 2, name: 'eth0', kind: 'veth', up: false, mtu: 1_500, macAddress: '22:71:ab:b0:a0:8f', master: 'br0', peerIndex: 5, peerIsElsewhere: true, peerNamespaceName: null,
      addresses: [{ address: 'fe80::1', prefixLength: 64, scope: 'link' }],
    });
  });

  it('the other ends of veth pairs: where the kernel names them, else the only ones that fit', () => {
    const names = parseNamespaceNames(JSON.stringify([{ nsid: 0, name: 'pod-a' }, { nsid: 1 }, { name: 'no number' }]));
    assert.deepEqual([...names], [[0, 'pod-a']]);
    const veth = (index: number, peer: number, nsid: number): unknown => ({ ifindex: index, link_index: peer, link_netnsid: nsid, ifname: `veth${index}`, linkinfo: { info_kind: 'veth' } });
    const namespace = (id: string, links: readonly unknown[], known?: ReadonlyMap<number, string>): ReadNamespace => ({
      id: id as NamespaceId, names: [id], links: parseLinks(JSON.stringify(links), known), routes: [], routingRules: [], sysctls: {}, ruleSets: [], conntrack: [], sockets: [], omissions: [],
    });
    // Both pods have an end with the same numbers; one has another as well, which nobody else has.
    const router = namespace('router', [veth(3, 2, 0), veth(4, 2, 1), veth(5, 9, 1), veth(6, 8, 0)], names);
    const others = [namespace('pod-a', [veth(2, 3, 0)]), namespace('pod-b', [veth(2, 3, 0), veth(9, 5, 0)]), namespace('pod-c', [veth(2, 4, 0)]), namespace('pod-d', [veth(2, 4, 0)])];
    const joined = joinPeers([router, ...others]);
    assert.deepEqual(joined[0]?.links.map(({ peer }) => peer?.namespace), ['pod-a', null, 'pod-b', 'pod-a']);
    assert.deepEqual(Object.keys(joined[0].links[0] ?? {}).filter((key) => key.startsWith('peer')), ['peer']);
  });

  it('routes: default, types, tables by name, several next hops', () => {
    const json = JSON.stringify([
      { dst: 'default', gateway: '10.99.0.1', dev: 'eth0', metric: 100 },
      { type: 'local', dst: '127.0.0.1', dev: 'lo', table: 'local', scope: 'host', prefsrc: '127.0.0.1' },
      { type: 'blackhole', dst: '10.77.0.0/16', table: 'mesh' },
      { dst: '10.88.0.0/16', nexthops: [{ gateway: '10.99.0.5', dev: 'eth0', weight: 1 }, { gateway: '10.99.0.6', dev: 'eth0', weight: 1 }] },
      { dst: '10.66.0.0/16', table: 'unheard-of' },
    ]);
    const { items, remarks } = parseRoutes(json, 'ipv4', parseTableNames('# comment\n255\tlocal\n133\tmesh\n'));
    assert.deepEqual(items.map(({ destination, type, gateway, table, metric }) => [`${destination.address}/${destination.prefixLength}`, type, gateway, table, metric]), [
      ['0.0.0.0/0', 'unicast', '10.99.0.1', 254, 100],
      ['127.0.0.1/32', 'local', null, 255, 0],
      ['10.77.0.0/16', 'blackhole', null, 133, 0],
      ['10.88.0.0/16', 'unicast', '10.99.0.5', 254, 0],
      ['10.88.0.0/16', 'unicast', '10.99.0.6', 254, 0],
    ]);
    assert.equal(remarks.length, 2);
    assert.deepEqual(parseRoutes('', 'ipv6').items, []);
    assert.throws(() => parseRoutes('Object "route" is unknown', 'ipv4'), { code: 'KERNEL_UNSUITABLE' });
  });

  it('routing rules: selectors, and a remark for what has no place', () => {
    const json = JSON.stringify([
      { priority: 0, src: 'all', table: 'local' },
      { priority: 10, src: '10.1.0.0', srclen: 16, dst: '10.2.3.4', iif: 'lo', oif: 'eth0', table: '200' },
      { priority: 11, src: 'all', fwmark: '0x1', fwmask: '0xff', table: '100' },
      { priority: 12, not: null, src: 'all', dst: '10.5.0.0', dstlen: 16, action: 'blackhole' },
    ]);
    const { items, remarks } = parseRoutingRules(json, 'ipv4');
    assert.deepEqual(items.map(({ priority, table, action }) => [priority, table, action]), [[0, 255, 'lookup'], [10, 200, 'lookup'], [11, 100, 'lookup'], [12, null, 'blackhole']]);
    assert.deepEqual(items[1]?.source, { address: '10.1.0.0', prefixLength: 16 });
    assert.deepEqual(items[1].destination, { address: '10.2.3.4', prefixLength: 32 });
    assert.deepEqual(items[2]?.mark, { value: 1, mask: 255 });
    assert.deepEqual(remarks, ['not of the routing rule with priority 12']);
  });
});

describe('conntrack -L -o extended', () => {
  it('both tuples of a redirected connection, mark and zone', () => {
    assert.deepEqual(
      parseConntrackLine(
        'ipv4     2 tcp      6 431999 ESTABLISHED src=10.99.0.2 dst=10.99.0.3 sport=52172 dport=80 src=127.0.0.1 dst=10.99.0.2 sport=15001 dport=52172 [ASSURED] mark=7 zone=3 use=1',
      ),
      {
        protocol: 'tcp',
        state: 'ESTABLISHED',
        original: { source: { address: '10.99.0.2', port: 52_172 }, destination: { address: '10.99.0.3', port: 80 } },
        reply: { source: { address: '127.0.0.1', port: 15_001 }, destination: { address: '10.99.0.2', port: 52_172 } },
        mark: 7,
        zone: 3,
        timeoutSeconds: 431_999,
      },
    );
  });

  it('no state, no ports, IPv6, and lines that are something else', () => {
    const udp = parseConntrackLine('ipv6 10 udp 17 29 src=fd00::1 dst=fd00::2 sport=5 dport=53 [UNREPLIED] src=fd00::2 dst=fd00::1 sport=53 dport=5 mark=0 use=1');
    assert.deepEqual([udp?.protocol, udp?.state, udp?.original.destination.address], ['udp', null, 'fd00::2']);
    const icmp = parseConntrackLine('ipv4 2 icmp 1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1 mark=0 use=1');
    assert.deepEqual([icmp?.protocol, icmp?.original.source.port], ['icmp', 0]);
    const gre = parseConntrackLine('ipv4 2 unknown 47 29 src=10.0.0.1 dst=10.0.0.2 src=10.0.0.2 dst=10.0.0.1 mark=0 use=1');
    assert.equal(gre?.protocol, 'other');
    for (const line of ['', 'conntrack v1.4.7 (conntrack-tools): 0 flow entries', 'ipv4 2 tcp 6 10 CLOSE src=10.0.0.1 dst=x sport=1 dport=2', 'ipv4 2 tcp 6 10 CLOSE src=10.0.0.1 dst=10.0.0.2 sport=70000 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1']) {
      assert.equal(parseConntrackLine(line), undefined);
    }
  });
});

describe('ss -Hntuae', () => {
  it('listening, connected, dual-stack and mapped sockets', () => {
    assert.deepEqual(parseSocketLine('tcp LISTEN 1      128               0.0.0.0:15001            0.0.0.0:*     uid:1337 ino:41354 sk:1003 cgroup:/pod-a <->'), {
      protocol: 'tcp', state: 'listen', local: { address: '0.0.0.0', port: 15_001 }, remote: { address: '0.0.0.0', port: 0 }, dualStack: false,
      uid: 1_337, inode: '41354', cookie: '4099', cgroup: '/pod-a',
    });
    const dual = parseSocketLine('tcp LISTEN 1 128 *:81 *:* ino:41355 sk:1008 cgroup:/ v6only:0 <->');
    assert.deepEqual([dual?.local.address, dual?.dualStack], ['::', true]);
    const v6 = parseSocketLine('tcp LISTEN 0 128 [::]:82 [::]:* ino:41356 sk:1007 cgroup:unreachable:f5 v6only:1 <->');
    assert.deepEqual([v6?.local.address, v6?.dualStack, v6?.cgroup], ['::', false, null]);
    const mapped = parseSocketLine('tcp ESTAB 0 0 [::ffff:127.0.0.1]:81 [::ffff:127.0.0.1]:35186 ino:0 sk:1009 cgroup:/ <->');
    assert.deepEqual([mapped?.state, mapped?.local.address, mapped?.remote.port], ['established', '127.0.0.1', 35_186]);
    const scoped = parseSocketLine('udp UNCONN 0 0 [fe80::1]%eth0:546 [::]:* ino:5 sk:1 cgroup:/ v6only:1 <->');
    assert.deepEqual([scoped?.protocol, scoped?.local.address, scoped?.local.port], ['udp', 'fe80::1', 546]);
    assert.equal(parseSocketLine('Netid State Recv-Q Send-Q Local Peer'), undefined);
    assert.equal(parseSocketLine('tcp ESTAB 0 0 10.0.0.1:99999 10.0.0.2:80'), undefined);
  });
});

describe('proc', () => {
  it('namespaces, cgroups and gids of processes', () => {
    assert.equal(parseNamespaceLink('net:[4026531840]'), '4026531840');
    assert.equal(parseNamespaceLink('mnt:[4026531840]'), undefined);
    assert.equal(parseCgroup2('9:name=systemd:/\n0::/kubepods/pod 1\n'), '/kubepods/pod 1');
    assert.equal(parseCgroup2('0::/gone (deleted)\n'), null);
    assert.equal(parseCgroup2('2:cpu:/\n'), null);
    assert.equal(parseFilesystemGid('Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t1\t2\t3\t1337\n'), 1_337);
    assert.equal(parseFilesystemGid('Name:\tx\n'), null);
  });

  it('sysctls, also of devices with a dot in their name', () => {
    assert.deepEqual(parseSysctls('/proc/sys/net/ipv4/ip_forward:1\n/proc/sys/net/ipv4/conf/eth0.100/rp_filter:2\n/proc/sys/net/ipv4/ip_local_port_range:32768\t60999\nsomething else\n'), {
      'net.ipv4.ip_forward': '1',
      'net.ipv4.conf.eth0/100.rp_filter': '2',
      'net.ipv4.ip_local_port_range': '32768 60999',
    });
  });
});

describe('pods', () => {
  const namespace = '42' as NamespaceId;
  const process = (pid: number, inside: string, cgroup: string): { pid: number; namespace: NamespaceId; cgroup: CgroupPath } => ({ pid, namespace: inside as NamespaceId, cgroup: cgroup as CgroupPath });

  it('have the folder that holds all of their processes and nobody else', () => {
    const own = [process(2, '42', '/pods/a/app'), process(3, '42', '/pods/a/proxy')];
    assert.deepEqual(podCgroups(namespace, [...own, process(4, '43', '/pods/b')]), ['/pods/a']);
    assert.deepEqual(podCgroups(namespace, [...own, process(4, '43', '/pods/a/other')]), ['/pods/a/app', '/pods/a/proxy']);
    assert.deepEqual(podCgroups(namespace, [process(2, '42', '/a'), process(3, '42', '/b'), process(4, '42', '/')]), ['/a', '/b']);
  });

  it('belong to a mesh where its user listens on its port', () => {
    const listening = (port: number, uid: number): Parameters<typeof detectProfile>[0][number] => ({
      protocol: 'tcp', state: 'listen', local: { address: toIpAddress('0.0.0.0'), port: toPortNumber(port) }, remote: { address: toIpAddress('0.0.0.0'), port: toPortNumber(0) },
      dualStack: false, uid, inode: '1' as never, cookie: null, owner: null,
    });
    assert.equal(detectProfile([listening(ISTIO_PROFILE.outboundPort, ISTIO_PROFILE.proxyUid)])?.name, 'istio');
    assert.equal(detectProfile([listening(ISTIO_PROFILE.outboundPort, 0), listening(80, ISTIO_PROFILE.proxyUid)]), undefined);
    const [pod, ...others] = findPods(
      [
        { id: '1' as NamespaceId, names: ['host'], links: [], sockets: [] },
        { id: namespace, names: ['cni-12ab-34'], links: parseLinks(JSON.stringify([{ ifindex: 2, ifname: 'eth0', addr_info: [{ local: '10.0.0.5', prefixlen: 24, scope: 'global' }, { local: 'fe80::1', prefixlen: 64, scope: 'link' }] }])), sockets: [] },
      ],
      [process(2, '42', '/pods/a')],
    );
    assert.deepEqual(others, []);
    assert.deepEqual(pod, { name: 'a', namespace: '42', cgroups: ['/pods/a'], addresses: ['10.0.0.5'], profile: null });
  });

  it('are called by the folder of their cgroup, unless it says nothing or is another pod\'s name too', () => {
    const container = 'a1'.repeat(32);
    const uuid = '0d3c4b8e-7c1f-4f0e-9a57-2f6f0f5d1a11';
    const processes = [
      process(1, '1', '/'),
      process(2, '42', '/shop/cart/app'),
      process(3, '42', '/shop/cart/proxy'),
      process(4, '43', '/shop/till/app'),
      process(5, '44', '/bank/till/app'),
      process(6, '45', `/kubepods.slice/kubepods-pod${uuid.replaceAll('-', '_')}.slice/cri-containerd-${container}.scope`),
      process(7, '46', `/system.slice/docker-${container}.scope`),
      process(8, '47', '/user.slice/session-3.scope'),
      process(9, '1', '/user.slice/session-3.scope'),
      process(10, '48', '/shop/orders'),
    ];
    const named: readonly (readonly [string, readonly string[]])[] = [
      ['1', ['host']],
      ['42', ['mesh-lab-cart']],
      ['43', ['shop-till']],
      ['44', []],
      ['45', [`cni-${uuid}`, 'orders']],
      ['46', [`cni-${uuid}`]],
      ['47', ['blue']],
      ['48', []],
    ];
    const pods = findPods(named.map(([id, names]) => ({ id: id as NamespaceId, names, links: [], sockets: [] })), processes);
    assert.deepEqual(
      pods.map(({ namespace, name }) => [namespace, name]),
      [
        ['42', 'cart'],
        // Two pods have a folder `app`, which is the only one that each has.
        ['43', 'shop-till'],
        ['44', '/bank/till/app'],
        ['45', 'orders'],
        ['46', `/system.slice/docker-${container}.scope`],
        ['47', 'blue'],
        // `orders` is the name of another namespace.
        ['48', '/shop/orders'],
      ],
    );
  });
});
