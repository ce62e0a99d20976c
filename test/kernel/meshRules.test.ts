import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { suite, test } from 'node:test';
import { MESH_TOOLS } from '../../simulator/mesh/meshTools.ts';
import { readOptionWords } from '../../simulator/mesh/optionWords.fixture.ts';
import { formatSavedRules } from '../../simulator/mesh/savedRules.ts';
import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import { writeRuleSet } from '../../simulator/netfilter/writeRuleSet.ts';
import { findCommand, missingForKernel } from '../requirements.ts';

/**
 * The kernel takes the rules of each mesh, by both kinds of iptables, and iptables-save prints of them what Meshpath says
 * that it does. (istio --ambient-host is left out: its rule needs an IP set.)
 */
const CASES: readonly (readonly [mesh: string, words: string])[] = [
  ['istio', '--dual-stack'],
  ['istio', '--injected --dual-stack'],
  ['istio', '-b 32000,31000 -q 32000,31000 -o 3306 -x 10.1.0.0/16,fd00::/8 --drop-invalid --dual-stack'],
  ['istio', '-k eth1,eth2 -i 10.0.0.1/8,fd01::1/16 -c net+ --dual-stack'],
  ['istio', '-k eth1,eth2 -i * --istio-outbound-owner-groups 5,6 --istio-outbound-ipv4-loopback-cidr 127.0.0.1/8'],
  ['istio', '-u 3,4 -g 1,2 --redirect-dns --dns-servers 127.0.0.53,::127.0.0.53 --istio-outbound-owner-groups-exclude 7 --dual-stack'],
  ['istio', '--injected --redirect-dns --capture-all-dns --dual-stack'],
  ['istio', '-m TPROXY -b * -d 15020 -i 9.9.0.0/16 -c not-istio-nic --redirect-dns --dns-servers 127.0.0.53 --dual-stack'],
  ['istio', '-m TPROXY -b 80 -t 1400'],
  ['istio', '--ambient --redirect-dns --kube-virt-interfaces tap0_kata --dual-stack'],
  ['istio', '--ambient --bypass-inbound-capture'],
  ['linkerd', '--injected --proxy-gid 2103 --subnets-to-ignore 10.0.0.0/8,fd00::/8'],
  ['linkerd', '-r 80,443 --inbound-ports-to-ignore 22-23,25-27,33-34,35-35,37-38,50-54,56,58,60,63,70-72'],
  ['kuma', ''],
  ['kuma', '--redirect-all-dns-traffic --drop-invalid-packets --exclude-outbound-ports-for-uids 53,3000-5000:106-108 --exclude-outbound-ips 10.0.0.1,192.168.0.0/24,fe80::1 --exclude-inbound-ips 192.168.0.1,fd00::/8 --exclude-inbound-ports 4444 --exclude-outbound-ports 6,77 --vnet docker0:172.17.0.0/16 --vnet br+:172.18.0.0/16 --vnet iface:::1/64'],
  ['kuma', '--disable-comments --redirect-dns --dns-servers 10.0.0.53,fd00::53 --iptables-logs --redirect-inbound=false --redirect-outbound-insert-instead-of-append --redirect-inbound-insert-instead-of-append'],
  ['osm', ''],
  ['osm', '--outbound-ip-range-exclusion-list 1.1.1.1/32,2.2.0.0/16 --outbound-ip-range-inclusion-list 3.3.3.3/32 --outbound-port-exclusion-list 10,20 --inbound-port-exclusion-list 30,40 --network-interface-exclusion-list net1 --local-proxy-mode PodIP --pod-ip 10.1.2.3'],
];

for (const backend of ['nft', 'legacy'] as const) {
  const skip = missingForKernel() || (findCommand(`iptables-${backend}-restore`) === undefined ? `needs iptables-${backend}-restore` : false);
  suite(`the rules of meshes in the kernel, by iptables-${backend}`, { skip }, () => {
    for (const [mesh, words] of CASES) {
      test(`${mesh} ${words}`, () => {
        const tool = MESH_TOOLS.find(({ name }) => name === mesh);
        assert.ok(tool !== undefined);
        const rules = tool.generate(readOptionWords(tool, words));
        assert.notEqual(rules.ipv4, '');
        for (const [program, text] of [['iptables', rules.ipv4], ['ip6tables', rules.ipv6]] as const) {
          if (text !== '') {
            const saved = loadAndSave(`${program}-${backend}`, text);
            const read = readRuleSet(saved);
            assert.deepEqual(read.problems, []);
            assert.deepEqual(rulesByChain(writeRuleSet(read, { counters: false })), rulesByChain(saved));
            assert.deepEqual(rulesByChain(formatSavedRules(text)), rulesByChain(saved));
          }
        }
      });
    }
  });
}

/** Loads rules in a network namespace of their own, which ends with the shell, and gives what is there then. */
function loadAndSave(program: string, text: string): string {
  const { status, stdout, stderr } = spawnSync('unshare', ['--net', 'sh', '-c', `${program}-restore --noflush && ${program}-save`], { input: text, encoding: 'utf8' });
  assert.equal(status, 0, `${stderr}\n${text}`);
  return stdout;
}

/** The rules of each chain of each table in their order; chains without rules too. */
function rulesByChain(text: string): Readonly<Record<string, readonly string[]>> {
  const chains = new Map<string, string[]>();
  let table = '';
  for (const line of text.split('\n')) {
    const [word = '', chain = ''] = line.split(' ');
    if (line.startsWith('*')) {
      table = line.slice(1);
    } else if (line.startsWith(':')) {
      chains.set(`${table} ${word.slice(1)} ${chain}`, []);
    } else if (word === '-A') {
      [...chains].find(([name]) => name.startsWith(`${table} ${chain} `))?.[1].push(line);
    }
  }
  return Object.fromEntries([...chains].toSorted(([left], [right]) => left.localeCompare(right)));
}
