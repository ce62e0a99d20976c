import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import { writeRuleSet } from '../netfilter/writeRuleSet.ts';
import { generateIstioRules, ISTIO_DEFAULTS } from './istioRules.ts';

const GOLDEN_FOLDER = join(import.meta.dirname, '../../../shared/data/istio');
const skip = existsSync(GOLDEN_FOLDER) ? false : "Istio's golden files are not here (../shared/data/istio)";

const nothingExcluded = { ...ISTIO_PROFILE, excludedInboundPorts: [], excludedOutboundPorts: [] };
const nothing = { profile: nothingExcluded, inboundPorts: [], outboundRanges: [], excludedOutboundRanges: [], outboundPorts: [] } as const;
const ports = [32_000, 31_000].map(toPortNumber);

for (const [file, options] of [
  ['empty.golden', nothing],
  ['inbound-ports-wildcard.golden', { ...nothing, inboundPorts: '*' }],
  ['inbound-ports-include.golden', { ...nothing, inboundPorts: ports }],
  ['outbound-ports-include.golden', { ...nothing, outboundPorts: ports }],
] as const) {
  test(`the rules are those of Istio's ${file}`, { skip }, () => {
    const golden = readFileSync(join(GOLDEN_FOLDER, file), 'utf8').split('\n').filter((line) => !line.endsWith('-save')).join('\n');
    const expected = readRuleSet(golden);
    assert.deepEqual(expected.problems, []);
    assert.deepEqual(ruleLines(generateIstioRules(options)), ruleLines(writeRuleSet(expected, { counters: false })));
  });
}

test('the default rules are those that an injected sidecar installs', () => {
  assert.deepEqual(ruleLines(generateIstioRules(ISTIO_DEFAULTS)), [
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
    '-A OUTPUT -j ISTIO_OUTPUT',
    '-A PREROUTING -p tcp -j ISTIO_INBOUND',
  ]);
});

/** The rules by chain; within a chain their order stays. */
function ruleLines(text: string): readonly string[] {
  const lines = text.split('\n').filter((line) => line.startsWith('-A '));
  const chains = [...new Set(lines.map((line) => line.split(' ')[1] ?? ''))].toSorted();
  return chains.flatMap((chain) => lines.filter((line) => line.startsWith(`-A ${chain} `)));
}
