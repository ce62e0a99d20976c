import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lintRuleSet } from './lintRuleSet.ts';
import { readRuleSet } from './readRuleSet.ts';

function lint(rules: string, table = 'filter'): readonly string[] {
  const ruleSet = readRuleSet(`*${table}\n${rules}\nCOMMIT\n`);
  assert.deepEqual(ruleSet.problems, []);
  return lintRuleSet(ruleSet).map(({ code, chain, position }) => `${code} ${chain}${position === null ? '' : ` ${position}`}`);
}

const ISTIO_OUTPUT = `:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT`;

test('options of one instance of a module say nothing about another one', () => {
  const rules = '-A POSTROUTING -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype --src-type LOCAL -j MASQUERADE';
  assert.deepEqual(lint(rules, 'nat'), []);
});

test('an IPv6 address has several types', () => {
  const rules = '*filter\n-A INPUT -m addrtype --dst-type UNICAST -m addrtype --dst-type LOCAL -j ACCEPT\n-A INPUT -m addrtype --dst-type LOCAL,UNICAST -j DROP\nCOMMIT\n';
  assert.deepEqual(lintRuleSet(readRuleSet(rules, { family: 'ipv6' })), []);
  assert.deepEqual(lintRuleSet(readRuleSet(rules, { family: 'ipv4' })).map(({ code }) => code), ['contradiction']);
});

test("Istio's own rules hold two that can never match: what leaves by lo is taken whoever sends it", () => {
  assert.deepEqual(lint(ISTIO_OUTPUT, 'nat'), ['shadowed ISTIO_OUTPUT 5', 'shadowed ISTIO_OUTPUT 6']);
  const [first] = lintRuleSet(readRuleSet(`*nat\n${ISTIO_OUTPUT}\nCOMMIT\n`));
  assert.match(first?.reason ?? '', /by rule 3, .* and rule 4, [^,]*$/, 'nothing else is a reason');
  assert.deepEqual(first?.relatedLines, [10, 11]);
});

for (const [rules, findings] of [
  ['-A INPUT -s 10.0.0.0/8 -j DROP\n-A INPUT -s 10.1.0.0/16 -p tcp --dport 80 -j ACCEPT', ['shadowed INPUT 2']],
  ['-A INPUT -s 10.1.0.0/16 -j DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT', []],
  ['-A INPUT ! -s 10.0.0.0/8 -j DROP\n-A INPUT -s 192.168.0.1 -j ACCEPT', ['shadowed INPUT 2']],
  ['-A INPUT ! -s 10.0.0.0/8 -j DROP\n-A INPUT -s 10.0.0.1 -j ACCEPT', []],
  ['-A INPUT -i eth+ -j DROP\n-A INPUT -i eth0 -j ACCEPT', ['shadowed INPUT 2']],
  ['-A INPUT -i eth0 -j DROP\n-A INPUT -i eth+ -j ACCEPT', []],
  ['-A INPUT -p tcp -m multiport --dports 80,443,8000:8100 -j ACCEPT\n-A INPUT -p tcp --dport 8080 -j DROP', ['shadowed INPUT 2']],
  ['-A INPUT -p tcp --dport 80:90 -j ACCEPT\n-A INPUT -p tcp -m multiport --dports 85,91 -j DROP', []],
  ['-A INPUT -p tcp --dport :1023 -j ACCEPT\n-A INPUT -p tcp --dport 1024: -j ACCEPT\n-A INPUT -p tcp -j DROP', []],
  ['-A INPUT -p tcp ! --syn -j ACCEPT\n-A INPUT -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP', ['shadowed INPUT 2']],
  ['-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A INPUT -m state --state RELATED -j DROP', ['shadowed INPUT 2']],
  ['-A INPUT -m limit --limit 1/sec -j ACCEPT\n-A INPUT -m limit --limit 1/sec -j ACCEPT', []],
  ['-A INPUT -m statistic --mode random --probability 0.5 -j DROP\n-A INPUT -m statistic --mode random --probability 0.5 -j ACCEPT', []],
  ['-A INPUT -m recent --rcheck -j DROP\n-A INPUT -m recent --rcheck -j ACCEPT', []],
  ['-A INPUT -m weird -j DROP\n-A INPUT -s 1.1.1.1 -j ACCEPT', null],
  ['-A INPUT -j LOG\n-A INPUT -s 1.1.1.1 -j ACCEPT', []],
  ['-A INPUT -m mark --mark 1 -j DROP\n-A INPUT -j MARK --set-mark 1\n-A INPUT -m mark --mark 1 -j ACCEPT', []],
  ['-A INPUT -m mark --mark 0x1/0x1 -j DROP\n-A INPUT -m mark --mark 0x3 -j ACCEPT', ['shadowed INPUT 2']],
  ['-A INPUT -j ACCEPT\n-A INPUT -s 1.1.1.1 -j DROP', ['after-unconditional INPUT 2']],
  ['-P INPUT DROP\n-A INPUT -j ACCEPT', ['unused-policy INPUT 1']],
  ['-N A\n-A A -s 1.1.1.1 -j ACCEPT\n-A A -j DROP\n-A INPUT -p tcp -j A\n-A INPUT -p tcp --dport 80 -j ACCEPT', ['shadowed INPUT 2']],
  ['-N A\n-A A -s 1.1.1.1 -j RETURN\n-A A -j DROP\n-A INPUT -p tcp -j A\n-A INPUT -p tcp --dport 80 -j ACCEPT', []],
  ['-N A\n-A A -p udp -j ACCEPT\n-A A -j DROP\n-A INPUT -p tcp -j A', ['contradiction A 1']],
  ['-N A\n-A A -p udp -j ACCEPT\n-A INPUT -p tcp -j A\n-A FORWARD -j A', []],
  ['-N A\n-A INPUT -j A', ['empty-chain INPUT 1']],
  ['-N A\n-A A -j DROP', ['unreachable-chain A']],
  ['-N A\n-A A -i eth0 -j DROP\n-A OUTPUT -j A', ['impossible-here A 1']],
  ['-A INPUT -m state --state NEW -m state --state ESTABLISHED -j DROP', ['contradiction INPUT 1']],
  ['-A INPUT -m mark --mark 0xff/0x0f -j DROP', ['contradiction INPUT 1']],
  ['-A INPUT -p tcp --tcp-flags SYN ACK -j DROP', ['contradiction INPUT 1']],
  ['-A INPUT -p tcp -m tcp --dport 80 -m multiport --dports 90,91 -j DROP', ['contradiction INPUT 1']],
  ['-A INPUT -s 1.1.1.1 -j LOG\n-A INPUT -s 1.1.1.1 -j LOG', ['duplicate INPUT 2']],
  // A later fragment has no ports: it fails both rules and meets the third.
  ['-A INPUT -p tcp --dport 80 -j ACCEPT\n-A INPUT -p tcp ! --dport 80 -j ACCEPT\n-A INPUT -p tcp -s 1.1.1.1 -j DROP', []],
  ['-A INPUT -p tcp --dport 80 -j ACCEPT\n-A INPUT -p tcp ! --dport 80 -j ACCEPT\n-A INPUT -p tcp --sport 5 -j DROP', ['shadowed INPUT 3']],
  // Without a socket, options of one owner module are compared together.
  ['-A OUTPUT -m owner --uid-owner 1 --gid-owner 2 -j DROP\n-A OUTPUT -m owner --uid-owner 1 --gid-owner 2 -j ACCEPT', []],
] as const) {
  test(`lint: ${rules.replaceAll('\n', ' ; ')}`, () => {
    if (findings === null) {
      assert.deepEqual(lintRuleSet(readRuleSet(`*filter\n${rules}\nCOMMIT\n`)), []);
    } else {
      assert.deepEqual(lint(rules), findings);
    }
  });
}

test('nat is asked for new connections only', () => {
  assert.deepEqual(lint('-A PREROUTING -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A PREROUTING -m conntrack --ctstate NEW -j ACCEPT', 'nat'), ['impossible-here PREROUTING 1']);
});

test('a table of thousands of rules comes to an end', () => {
  const rules = Array.from({ length: 3_500 }, (_, index) => `-A INPUT -s 10.${index >> 8}.${index & 255}.1 -p tcp --dport ${index} -j DROP`).join('\n');
  assert.deepEqual(lint(rules), ['not-compared ']);
});
