import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KUMA_TOOL } from './kuma.ts';
import { LINKERD_TOOL } from './linkerd.ts';
import type { MeshRules } from './meshRules.ts';
import type { MeshTool } from './meshTool.ts';
import { OSM_TOOL } from './osm.ts';
import { readOptionWords } from './optionWords.fixture.ts';

function generate(tool: MeshTool, words: string): MeshRules {
  return tool.generate(readOptionWords(tool, words));
}

function rejects(tool: MeshTool, words: string): void {
  assert.throws(
    () => generate(tool, words),
    (error: unknown) => error instanceof Error && 'code' in error && error.code === 'INPUT_INVALID',
    words,
  );
}

test("Linkerd's injector gives a proxy these rules, the same for both families", () => {
  const expected = `* nat
-N PROXY_INIT_REDIRECT
-N PROXY_INIT_OUTPUT
-A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 4190,4191,4567,4568 -j RETURN -m comment --comment proxy-init/ignore-port-4190,4191,4567,4568
-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143 -m comment --comment proxy-init/redirect-all-incoming-to-proxy-port
-A PREROUTING -j PROXY_INIT_REDIRECT -m comment --comment proxy-init/install-proxy-init-prerouting
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN -m comment --comment proxy-init/ignore-proxy-user-id
-A PROXY_INIT_OUTPUT -o lo -j RETURN -m comment --comment proxy-init/ignore-loopback
-A PROXY_INIT_OUTPUT -p tcp --match multiport --dports 4567,4568 -j RETURN -m comment --comment proxy-init/ignore-port-4567,4568
-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140 -m comment --comment proxy-init/redirect-all-outgoing-to-proxy-port
-A OUTPUT -j PROXY_INIT_OUTPUT -m comment --comment proxy-init/install-proxy-init-output
COMMIT
`;
  const rules = generate(LINKERD_TOOL, '--injected');
  assert.deepEqual([rules.ipv4, rules.ipv6, rules.notes], [expected, expected, []]);
  assert.equal(generate(LINKERD_TOOL, '--injected --ipv6=false').ipv6, '');
});

test('proxy-init runs a command for each rule, of the kind of iptables that it is told', () => {
  assert.deepEqual(generate(LINKERD_TOOL, '-p 4143 -o 4140 -r 80 --iptables-mode nft -w --ipv6=false').commands, [
    'iptables-nft-save -t nat',
    'iptables-nft -t nat -N PROXY_INIT_REDIRECT -w',
    'iptables-nft -t nat -A PROXY_INIT_REDIRECT -p tcp --destination-port 80 -j REDIRECT --to-port 4143 -m comment --comment proxy-init/redirect-port-80-to-proxy-port -w',
    'iptables-nft -t nat -A PREROUTING -j PROXY_INIT_REDIRECT -m comment --comment proxy-init/install-proxy-init-prerouting -w',
    'iptables-nft -t nat -N PROXY_INIT_OUTPUT -w',
    'iptables-nft -t nat -A PROXY_INIT_OUTPUT -o lo -j RETURN -m comment --comment proxy-init/ignore-loopback -w',
    'iptables-nft -t nat -A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140 -m comment --comment proxy-init/redirect-all-outgoing-to-proxy-port -w',
    'iptables-nft -t nat -A OUTPUT -j PROXY_INIT_OUTPUT -m comment --comment proxy-init/install-proxy-init-output -w',
    'iptables-nft-save -t nat',
  ]);
  assert.ok(generate(LINKERD_TOOL, '').commands.includes('ip6tables-legacy -t nat -N PROXY_INIT_OUTPUT'));
  assert.match(generate(LINKERD_TOOL, '').notes.join(' '), /--proxy-uid/);
  assert.match(generate(LINKERD_TOOL, '--iptables-mode plain').commands.join('\n'), /^iptables-save -t nat\niptables -t nat -N/);
});

test('ports are put into rules of at most 15 places, of which a range takes two', () => {
  const portsOf = (words: string): readonly string[] => [...generate(LINKERD_TOOL, words).ipv4.matchAll(/--dports (\S+)/g)].map(([, ports = '']) => ports);
  assert.deepEqual(portsOf('--inbound-ports-to-ignore 22,25-27,33'), ['22,25:27,33']);
  assert.deepEqual(portsOf('--inbound-ports-to-ignore 22-22,25-27,33'), ['22,25:27,33']);
  assert.deepEqual(portsOf('--inbound-ports-to-ignore 22-23,25-27,33-34,35-35,37-38,50-54,56-57,60-63'), ['22:23,25:27,33:34,35,37:38,50:54,56:57,60:63']);
  assert.deepEqual(portsOf('--inbound-ports-to-ignore 22-23,25-27,33-34,35-35,37-38,50-54,56,58,60,63,70-72'), ['22:23,25:27,33:34,35,37:38,50:54,56,58,60,63', '70:72']);
});

test('a proxy has a group too, and subnets are left alone on the way in, in the rules of their family', () => {
  const { ipv4, ipv6 } = generate(LINKERD_TOOL, '--proxy-gid 2103 --subnets-to-ignore 10.0.0.0/8,fd00::/8 --inbound-ports-to-ignore 1 --inbound-ports-to-ignore 2');
  assert.match(ipv4, /--dports 1,2 .*\n-A PROXY_INIT_REDIRECT -p all -j RETURN -s 10\.0\.0\.0\/8 -m comment --comment proxy-init\/ignore-subnet-10\.0\.0\.0\/8\n/);
  assert.match(ipv4, /-A PROXY_INIT_OUTPUT -m owner --gid-owner 2103 -j RETURN -m comment --comment proxy-init\/ignore-proxy-group-id\n/);
  assert.match(ipv6, /-s fd00::\/8 /);
  assert.doesNotMatch(ipv6, /10\.0\.0\.0/);
  for (const words of ['-p 0', '-r 80-90', '--inbound-ports-to-ignore 5-4', '--inbound-ports-to-ignore a', '--subnets-to-ignore 10.0.0.1', '--iptables-mode xt', '-u root']) {
    rejects(LINKERD_TOOL, words);
  }
});

test('Kuma with its defaults, without comments', () => {
  const { ipv4, ipv6, setup } = generate(KUMA_TOOL, '--disable-comments --kuma-dp-user 0');
  assert.equal(ipv4, `* nat
-N KUMA_MESH_INBOUND
-N KUMA_MESH_OUTBOUND
-N KUMA_MESH_INBOUND_REDIRECT
-N KUMA_MESH_OUTBOUND_REDIRECT
-A PREROUTING -p tcp -j KUMA_MESH_INBOUND
-A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND
-A KUMA_MESH_INBOUND -p tcp -j KUMA_MESH_INBOUND_REDIRECT
-A KUMA_MESH_OUTBOUND -s 127.0.0.6/32 -o lo -j RETURN
-A KUMA_MESH_OUTBOUND -p tcp -o lo ! -d 127.0.0.1/32 -m owner --uid-owner 0 -j KUMA_MESH_INBOUND_REDIRECT
-A KUMA_MESH_OUTBOUND -p tcp -o lo -m owner ! --uid-owner 0 -j RETURN
-A KUMA_MESH_OUTBOUND -m owner --uid-owner 0 -j RETURN
-A KUMA_MESH_OUTBOUND -d 127.0.0.1/32 -j RETURN
-A KUMA_MESH_OUTBOUND -j KUMA_MESH_OUTBOUND_REDIRECT
-A KUMA_MESH_INBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A KUMA_MESH_OUTBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
`);
  assert.equal(ipv6, ipv4.replaceAll('127.0.0.6/32', '::6/128').replaceAll('127.0.0.1/32', '::1/128'));
  assert.deepEqual(setup, ['ip -6 addr add ::6/128 dev lo']);
  assert.equal(generate(KUMA_TOOL, '--ip-family-mode ipv4').ipv6, '');
});

test('Kuma captures DNS with conntrack zones of its own, in front of everything else', () => {
  const { ipv4 } = generate(KUMA_TOOL, '--disable-comments --kuma-dp-user 0 --redirect-all-dns-traffic --redirect-dns-port 12345 --drop-invalid-packets');
  assert.match(ipv4, /^\* raw\n-A PREROUTING -p udp --sport 53 -j CT --zone 1\n-A OUTPUT -p udp --dport 53 -m owner --uid-owner 0 -j CT --zone 1\n-A OUTPUT -p udp --sport 12345 -m owner --uid-owner 0 -j CT --zone 2\n-A OUTPUT -p udp --dport 53 -j CT --zone 2\nCOMMIT\n\* nat\n/);
  assert.match(ipv4, /-I OUTPUT 1 -p udp --dport 53 -m owner --uid-owner 0 -j RETURN\n-I OUTPUT 2 -p udp --dport 53 -j REDIRECT --to-ports 12345\n-A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND\n/);
  assert.match(ipv4, /-A KUMA_MESH_OUTBOUND -p tcp ! --dport 53 -o lo ! -d 127\.0\.0\.1\/32 -m owner --uid-owner 0 -j KUMA_MESH_INBOUND_REDIRECT\n-A KUMA_MESH_OUTBOUND -p tcp ! --dport 53 -o lo -m owner ! --uid-owner 0 -j RETURN\n-A KUMA_MESH_OUTBOUND -m owner --uid-owner 0 -j RETURN\n-A KUMA_MESH_OUTBOUND -p tcp --dport 53 -j REDIRECT --to-ports 12345\n/);
  assert.match(ipv4, /\* mangle\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n$/);
  assert.doesNotMatch(generate(KUMA_TOOL, '--redirect-all-dns-traffic --skip-dns-conntrack-zone-split').ipv4, /raw/);
  const servers = generate(KUMA_TOOL, '--disable-comments --redirect-dns --dns-servers 10.0.0.53,fd00::53');
  assert.match(servers.ipv4, /-I OUTPUT 2 -d 10\.0\.0\.53 -p udp --dport 53 -j REDIRECT/);
  assert.match(servers.ipv6, /-A PREROUTING -d fd00::53 -p udp --sport 53 -j CT --zone 1\n/);
  assert.doesNotMatch(generate(KUMA_TOOL, '--redirect-dns --dns-servers 10.0.0.53').ipv6, / 53 /);
});

test('what Kuma leaves alone comes in the order in which its rules are put in', () => {
  const { ipv4, ipv6 } = generate(
    KUMA_TOOL,
    '--disable-comments --redirect-all-dns-traffic --exclude-outbound-ports-for-uids 53,3000-5000:106-108 --exclude-outbound-ports-for-uids tcp::203 --exclude-outbound-ips 10.0.0.1,192.168.0.0/24,fe80::1 --exclude-inbound-ips 192.168.0.1 --exclude-inbound-ports 4444 --exclude-outbound-ports 6,77 --vnet docker0:172.17.0.0/16 --vnet br+:172.18.0.0/16 --vnet iface:::1/64',
  );
  const linesOf = (text: string, chain: string): readonly string[] => text.split('\n').filter((line) => line.startsWith(`-I ${chain} `) || line.startsWith(`-A ${chain} `));
  assert.deepEqual(linesOf(ipv4.split('* nat')[1] ?? '', 'OUTPUT'), [
    '-I OUTPUT 1 -m multiport -p tcp --dport 53,3000:5000 -m owner --uid-owner 106:108 -j RETURN',
    '-I OUTPUT 2 -m multiport -p udp --dport 53,3000:5000 -m owner --uid-owner 106:108 -j RETURN',
    '-I OUTPUT 3 -m multiport -p tcp --dport 1:65535 -m owner --uid-owner 203 -j RETURN',
    '-I OUTPUT 4 -d 10.0.0.1 -j RETURN',
    '-I OUTPUT 5 -d 192.168.0.0/24 -j RETURN',
    '-I OUTPUT 6 -p udp --dport 53 -m owner --uid-owner 5678 -j RETURN',
    '-I OUTPUT 7 -p udp --dport 53 -j REDIRECT --to-ports 15053',
    '-A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND',
  ]);
  assert.deepEqual(linesOf(ipv4.split('* nat')[1] ?? '', 'PREROUTING'), [
    '-I PREROUTING 1 -i br+ -m udp -p udp --dport 53 -j REDIRECT --to-ports 15053',
    '-I PREROUTING 2 ! -d 172.18.0.0/16 -i br+ -p tcp -j REDIRECT --to-ports 15001',
    '-I PREROUTING 3 -i docker0 -m udp -p udp --dport 53 -j REDIRECT --to-ports 15053',
    '-I PREROUTING 4 ! -d 172.17.0.0/16 -i docker0 -p tcp -j REDIRECT --to-ports 15001',
    '-I PREROUTING 5 -p tcp -j KUMA_MESH_INBOUND',
  ]);
  assert.deepEqual(linesOf(ipv4, 'KUMA_MESH_INBOUND'), ['-A KUMA_MESH_INBOUND -s 192.168.0.1 -j RETURN', '-A KUMA_MESH_INBOUND -p tcp --dport 4444 -j RETURN', '-A KUMA_MESH_INBOUND -p tcp -j KUMA_MESH_INBOUND_REDIRECT']);
  assert.deepEqual(linesOf(ipv4, 'KUMA_MESH_OUTBOUND').slice(0, 2), ['-A KUMA_MESH_OUTBOUND -p tcp --dport 6 -j RETURN', '-A KUMA_MESH_OUTBOUND -p tcp --dport 77 -j RETURN']);
  assert.match(ipv6, /-I OUTPUT 4 -d fe80::1 -j RETURN\n/);
  assert.match(ipv6, /-I PREROUTING 2 ! -d ::1\/64 -i iface -p tcp -j REDIRECT --to-ports 15001\n/);
});

test('Kuma gives a reason with every rule, cut to what a comment holds', () => {
  const { ipv4 } = generate(KUMA_TOOL, '--iptables-logs --redirect-inbound=false --redirect-outbound-insert-instead-of-append');
  assert.match(ipv4, /-A PREROUTING -m comment --comment "kuma\/mesh\/transparent\/proxy\/log matching packets using kernel logging" -j LOG --log-prefix PREROUTING: --log-level 7\n/);
  assert.match(ipv4, /-I OUTPUT 2 -m comment --comment "[^"]+" -p tcp -j KUMA_MESH_OUTBOUND\n/);
  assert.match(ipv4, /-A KUMA_MESH_INBOUND -m comment --comment "kuma\/mesh\/transparent\/proxy\/inbound traffic redirection is disabled" -p tcp -j RETURN\n/);
  for (const [, comment = ''] of ipv4.matchAll(/--comment "([^"]*)"/g)) {
    assert.ok(comment.length <= 254);
  }
  for (const words of ['--kuma-dp-user kuma', '--exclude-outbound-ports-for-uids a3000-5000:1', '--exclude-outbound-ports-for-uids http:3000-5000:1', '--exclude-outbound-ports-for-uids 3000-5000:1:*', '--exclude-outbound-ports-for-uids 3000-5000:1:1,2,3', '--exclude-outbound-ports-for-uids 1:2:3:4', '--vnet docker0', '--vnet a/b:10.0.0.0/8', '--redirect-dns --redirect-all-dns-traffic', '--ip-family-mode ipv6']) {
    rejects(KUMA_TOOL, words);
  }
});

test('OSM with nothing excluded, and with exclusions and inclusions', () => {
  const start = `# OSM sidecar interception rules
*nat
:OSM_PROXY_INBOUND - [0:0]
:OSM_PROXY_IN_REDIRECT - [0:0]
:OSM_PROXY_OUTBOUND - [0:0]
:OSM_PROXY_OUT_REDIRECT - [0:0]
-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-port 15003
-A PREROUTING -p tcp -j OSM_PROXY_INBOUND
-A OSM_PROXY_INBOUND -p tcp --dport 15010 -j RETURN
-A OSM_PROXY_INBOUND -p tcp --dport 15901 -j RETURN
-A OSM_PROXY_INBOUND -p tcp --dport 15902 -j RETURN
-A OSM_PROXY_INBOUND -p tcp --dport 15903 -j RETURN
-A OSM_PROXY_INBOUND -p tcp --dport 15904 -j RETURN
-A OSM_PROXY_INBOUND -p tcp -j OSM_PROXY_IN_REDIRECT
`;
  const outbound = `-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-port 15001
-A OSM_PROXY_OUT_REDIRECT -p tcp --dport 15000 -j ACCEPT
-A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND
-A OSM_PROXY_OUTBOUND -o lo ! -d 127.0.0.1/32 -m owner --uid-owner 1500 -j OSM_PROXY_IN_REDIRECT
-A OSM_PROXY_OUTBOUND -o lo -m owner ! --uid-owner 1500 -j RETURN
-A OSM_PROXY_OUTBOUND -m owner --uid-owner 1500 -j RETURN
-A OSM_PROXY_OUTBOUND -d 127.0.0.1/32 -j RETURN
`;
  assert.equal(generate(OSM_TOOL, '').ipv4, `${start}${outbound}-A OSM_PROXY_OUTBOUND -j OSM_PROXY_OUT_REDIRECT\nCOMMIT\n`);
  assert.equal(generate(OSM_TOOL, '').ipv6, '');
  assert.equal(
    generate(OSM_TOOL, '--outbound-ip-range-exclusion-list 1.1.1.1/32,2.2.2.2/32 --outbound-ip-range-inclusion-list 3.3.3.3/32,4.4.4.4/32 --outbound-port-exclusion-list 10,20 --inbound-port-exclusion-list 30,40').ipv4,
    `${start}-I OSM_PROXY_INBOUND -p tcp --match multiport --dports 30,40 -j RETURN
${outbound}-A OSM_PROXY_OUTBOUND -d 1.1.1.1/32 -j RETURN
-A OSM_PROXY_OUTBOUND -d 2.2.2.2/32 -j RETURN
-A OSM_PROXY_OUTBOUND -p tcp --match multiport --dports 10,20 -j RETURN
-A OSM_PROXY_OUTBOUND -d 3.3.3.3/32 -j OSM_PROXY_OUT_REDIRECT
-A OSM_PROXY_OUTBOUND -d 4.4.4.4/32 -j OSM_PROXY_OUT_REDIRECT
-A OSM_PROXY_OUTBOUND -j RETURN
COMMIT
`,
  );
});

test("OSM sends what is for the application to the pod's address, and leaves interfaces alone", () => {
  const { ipv4 } = generate(OSM_TOOL, '--local-proxy-mode PodIP --pod-ip 10.1.2.3 --network-interface-exclusion-list net1,net2');
  assert.match(ipv4, /-I OSM_PROXY_INBOUND -i net1 -j RETURN\n-I OSM_PROXY_INBOUND -i net2 -j RETURN\n/);
  assert.match(ipv4, /-d 127\.0\.0\.1\/32 -j RETURN\n-I OUTPUT -p tcp -o lo -d 127\.0\.0\.1\/32 -m owner --uid-owner 1500 -j DNAT --to-destination 10\.1\.2\.3\n-A OSM_PROXY_OUTBOUND -o net1 -j RETURN\n/);
  for (const words of ['--local-proxy-mode PodIP', '--local-proxy-mode PodIP --pod-ip ::1', '--local-proxy-mode x', '--outbound-ip-range-exclusion-list fd00::/8', '--inbound-port-exclusion-list 0']) {
    rejects(OSM_TOOL, words);
  }
});
