import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readOptionWords } from './optionWords.fixture.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from './istioSidecar.ts';
import { ISTIO_TOOL } from './istio.ts';
import type { MeshRules } from './meshRules.ts';
import { formatSavedRules } from './savedRules.ts';

const GOLDEN_FOLDER = join(import.meta.dirname, '../../../shared/data/istio');
const skip = existsSync(GOLDEN_FOLDER) ? false : "Istio's golden files are not here (../shared/data/istio)";

/** The options that Istio's own test gives for each of its golden files (tools/istio-iptables/pkg/capture/run_test.go). */
const GOLDEN_OPTIONS: Readonly<Record<string, string>> = {
  'basic-exclude-nic': '-c not-istio-nic',
  'dns-uid-gid': '-u 3,4 -g 1,2 --redirect-dns --dns-servers 127.0.0.53,::127.0.0.53 --dual-stack',
  'drop-invalid': '--drop-invalid',
  empty: '',
  'inbound-ports-include': '-b 32000,31000',
  'inbound-ports-wildcard': '-b *',
  'ipnets-with-kube-virt-interfaces': '-k eth1,eth2 -i 10.0.0.0/8',
  'ipv6-dns-uid-gid': '-u 3,4 -g 1,2 --redirect-dns --dual-stack',
  'ipv6-outbound-ports': '-q 32000,31000 --dual-stack',
  'kube-virt-interfaces': '-k eth1,eth2 -i *',
  'loopback-outbound-iprange': '-u 3,4 -g 1,2 -i 127.1.2.3/32 --redirect-dns --dns-servers 127.0.0.53',
  'outbound-owner-groups': '--istio-outbound-owner-groups java,202',
  'outbound-ports-include': '-q 32000,31000',
  tproxy: '-m TPROXY -b * -x 1.1.0.0/16 -i 9.9.0.0/16 -c not-istio-nic --redirect-dns --dns-servers 127.0.0.53 --dual-stack',
};

function generate(words: string): MeshRules {
  return ISTIO_TOOL.generate(readOptionWords(ISTIO_TOOL, words));
}

/** What Istio's test writes to its golden files: what the tool ran, with the input of iptables-restore. */
function goldenText({ ipv4, ipv6 }: MeshRules): string {
  return `iptables-save\nip6tables-save\n${ipv4}${ipv6}iptables-save\n${ipv6 === '' ? '' : 'ip6tables-save\n'}`;
}

test("there are options for each of Istio's golden files", { skip }, () => {
  assert.deepEqual(readdirSync(GOLDEN_FOLDER).toSorted(), Object.keys(GOLDEN_OPTIONS).map((name) => `${name}.golden`).toSorted());
});

for (const [name, words] of Object.entries(GOLDEN_OPTIONS)) {
  test(`istio-iptables ${words}: the bytes of ${name}.golden`, { skip }, () => {
    assert.equal(goldenText(generate(words)), readFileSync(join(GOLDEN_FOLDER, `${name}.golden`), 'utf8'));
  });
}

test('what the injector gives a sidecar comes out of iptables-save as pods of Istio have it', () => {
  const expected = [
    '-A PREROUTING -p tcp -j ISTIO_INBOUND',
    '-A OUTPUT -j ISTIO_OUTPUT',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT',
    '-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006',
    '-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN',
    '-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT',
    '-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN',
    '-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN',
    '-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT',
    '-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN',
    '-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN',
    '-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN',
    '-A ISTIO_OUTPUT -j ISTIO_REDIRECT',
    '-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001',
  ];
  const saved = formatSavedRules(generateIstioSidecarRules(ISTIO_INJECTED).ipv4);
  assert.deepEqual(saved.split('\n').filter((line) => line.startsWith('-A ')).toSorted(), expected.toSorted());
  assert.equal(generate('--injected').ipv4, generateIstioSidecarRules(ISTIO_INJECTED).ipv4);
  assert.equal(generate('--injected').ipv4, generate('-b * -d 15020,15021,15090 -i *').ipv4);
});

test('excluded ports stand before what is sent back, for TCP and UDP on the way out', () => {
  const lines = generate('-b * -d 8081,9090, -o 3306 -i *').ipv4.split('\n');
  assert.deepEqual(lines.slice(lines.indexOf('-A PREROUTING -p tcp -j ISTIO_INBOUND'), lines.indexOf('-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN')), [
    '-A PREROUTING -p tcp -j ISTIO_INBOUND',
    '-A ISTIO_INBOUND -p tcp --dport 8081 -j RETURN',
    '-A ISTIO_INBOUND -p tcp --dport 9090 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT',
    '-A OUTPUT -j ISTIO_OUTPUT',
    '-A ISTIO_OUTPUT -p tcp --dport 3306 -j RETURN',
    '-A ISTIO_OUTPUT -p udp --dport 3306 -j RETURN',
  ]);
});

test('all of DNS may be captured, whichever server it goes to', () => {
  const { ipv4, ipv6 } = generate('--redirect-dns --capture-all-dns --dual-stack');
  for (const text of [ipv4, ipv6]) {
    assert.match(text, /-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS\n/);
    assert.match(text, /-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053\n-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-port 15053\n/);
    assert.match(text, /-A PREROUTING -j ISTIO_INBOUND\n-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2\n-A ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1\nCOMMIT\n$/);
  }
  const [note = ''] = generate('--redirect-dns').notes;
  assert.match(note, /DNS is not captured/);
});

test('TPROXY takes single ports too, and needs a rule and a route', () => {
  const { ipv4, setup } = generate('-m TPROXY -b 32000 -t 1400 -r 200');
  assert.match(ipv4, /-A ISTIO_INBOUND -p tcp --dport 32000 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT\n-A ISTIO_INBOUND -p tcp --dport 32000 -j ISTIO_TPROXY\n/);
  assert.match(ipv4, /-A ISTIO_TPROXY ! -d 127\.0\.0\.1\/32 -p tcp -j TPROXY --tproxy-mark 1400\/0xffffffff --on-port 15006\n/);
  assert.deepEqual(setup, ['ip -4 rule add fwmark 1400 lookup 200', 'ip -4 route add local default dev lo table 200']);
});

test('groups are left out one by one, or captured by one rule that returns all others', () => {
  assert.match(generate('--istio-outbound-owner-groups-exclude 888,ftp').ipv4, /--gid-owner 888 -j RETURN\n-A ISTIO_OUTPUT -m owner --gid-owner ftp -j RETURN\n/);
  assert.match(generate('--istio-outbound-owner-groups 5').ipv4, /-A ISTIO_OUTPUT -m owner ! --gid-owner 5 -j RETURN\n/);
});

test('ambient mode in a pod, with DNS and interfaces of virtual machines', () => {
  const { ipv4, setup } = generate('--ambient --redirect-dns --kube-virt-interfaces tap0_kata');
  assert.equal(ipv4, `* mangle
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
* nat
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A OUTPUT -j ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A ISTIO_PRERT -i tap0_kata -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_PRERT -i tap0_kata -p tcp -j RETURN
-A ISTIO_PRERT -s 169.254.7.127 -p tcp -m tcp -j ACCEPT
-A ISTIO_OUTPUT -d 169.254.7.127 -p tcp -m tcp -j ACCEPT
-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-port 15053
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
* raw
-N ISTIO_OUTPUT
-N ISTIO_PRERT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1
-A ISTIO_PRERT -p udp -m mark ! --mark 0x539/0xfff -m udp --sport 53 -j CT --zone 1
COMMIT
`);
  assert.deepEqual(setup, ['ip -4 rule add pref 32764 fwmark 0x111/0xfff lookup 100', 'ip -4 route add local default dev lo table 100']);
});

test('a gateway in ambient mode takes what comes in as it is; the node gives probes an address of their own', () => {
  assert.equal(generate('--ambient --bypass-inbound-capture --kube-virt-interfaces fake1s0f0,fake1s0f1').ipv4, `* mangle
-N ISTIO_OUTPUT
-N ISTIO_PRERT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
* nat
-N ISTIO_PRERT
-N ISTIO_OUTPUT
-A OUTPUT -j ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A ISTIO_PRERT -i fake1s0f0 -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_PRERT -i fake1s0f0 -p tcp -j RETURN
-A ISTIO_PRERT -i fake1s0f1 -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_PRERT -i fake1s0f1 -p tcp -j RETURN
-A ISTIO_OUTPUT -d 169.254.7.127 -p tcp -m tcp -j ACCEPT
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
`);
  const host = generate('--ambient-host --dual-stack');
  const rules = (version: number, address: string): string =>
    `* nat\n-N ISTIO_POSTRT\n-A POSTROUTING -j ISTIO_POSTRT\n-A ISTIO_POSTRT -m owner --socket-exists -p tcp -m set --match-set istio-inpod-probes-v${version} dst -j SNAT --to-source ${address}\nCOMMIT\n`;
  assert.deepEqual([host.ipv4, host.ipv6], [rules(4, '169.254.7.127'), rules(6, 'fd16:9254:7127:1337:ffff:ffff:ffff:ffff')]);
  assert.throws(() => generate('--ambient -b *'), { code: 'INPUT_INVALID', message: /--istio-inbound-ports does not go with ambient/ });
});

for (const words of ['-p 0', '-p 70000', '-p 80x', '-b 80,x', '-i 10.0.0.0', '-i 10.0.0.0/33', '-i 10.0.0.0/08', '-x *', '-u -1', '-u a;b', '-c eth0/1', '-c averyveryverylongname', '-k "', '-m NAT', '-t 4294967296', '--istio-outbound-ipv4-loopback-cidr x', `--istio-outbound-owner-groups ${Array.from({ length: 65 }, (_, index) => index).join(',')}`]) {
  test(`istio-iptables would not take ${words.slice(0, 60)}`, () => {
    assert.throws(() => generate(words), (error: unknown) => error instanceof Error && 'code' in error && error.code === 'INPUT_INVALID');
  });
}
