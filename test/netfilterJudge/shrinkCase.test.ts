import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { CaseDraft } from './generateCase.ts';
import type { Stimulus } from './judgeCase.ts';
import { shrinkCase } from './shrinkCase.ts';

const arrive = (port: number): Stimulus => ({
  kind: 'arrive', namespace: 'node', device: 'eth0',
  packet: { source: toIpAddress('10.1.0.2'), destination: toIpAddress('10.1.0.1'), ttl: 3, transport: { kind: 'udp', sourcePort: toPortNumber(port), destinationPort: toPortNumber(53) } },
});

test('a case is made as small as what differs', async () => {
  const draft: CaseDraft = {
    rules: [{ namespace: 'node', ipv4: '*mangle\n:X - [0:0]\n-A PREROUTING -j X\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -p udp -m udp --dport 53 -m mark --mark 0x1 -j REJECT\nCOMMIT\n', ipv6: '*raw\nCOMMIT\n' }],
    stimuli: [arrive(1), arrive(2), arrive(3), arrive(4)],
  };
  const smallest = await shrinkCase(draft, ({ rules, stimuli }) => Promise.resolve(/-p udp.*-j REJECT/.test(rules[0]?.ipv4 ?? '') && stimuli.some((stimulus) => JSON.stringify(stimulus).includes('"sourcePort":3'))));
  assert.deepEqual(smallest.rules, [{ namespace: 'node', ipv4: '*filter\n-A INPUT -p udp -j REJECT\nCOMMIT\n', ipv6: '' }]);
  assert.equal(smallest.stimuli.length, 1);
  assert.equal('ttl' in (smallest.stimuli[0]?.kind === 'arrive' ? smallest.stimuli[0].packet : {}), false);
});

test('what never differs stays as it is', async () => {
  const draft: CaseDraft = { rules: [{ namespace: 'node', ipv4: '*filter\n-A INPUT -j DROP\nCOMMIT\n', ipv6: '' }], stimuli: [arrive(1)] };
  assert.deepEqual(await shrinkCase(draft, () => Promise.resolve(false)), draft);
});
