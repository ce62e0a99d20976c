import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import { writeRuleSet } from '../../simulator/netfilter/writeRuleSet.ts';
import type { Bench, Sample } from './bench.ts';

const RULES = 5_000;

/** Rules as large sets have them: addresses, interfaces, ports, states, hardware addresses. */
function createText(): string {
  const lines = Array.from({ length: RULES }, (_, index) => {
    const address = `10.${(index >> 8) & 255}.${index & 255}.7`;
    return [
      `-A FORWARD -s ${address}/32 -i eth1 -p tcp -m tcp --dport ${(index % 60_000) + 1} -j ACCEPT`,
      `-A FORWARD -d ${address}/32 -m state --state RELATED,ESTABLISHED -j ACCEPT`,
      `-A FORWARD -s ${address}/32 -m mac --mac-source 42:01:02:03:04:05 -j RETURN`,
      `-A FORWARD -p udp -m multiport --dports 53,123,${(index % 60_000) + 200}:61000 -j DROP`,
    ][index % 4];
  });
  return `*filter\n${lines.join('\n')}\nCOMMIT\n`;
}

const text = createText();

function measure(run: () => unknown): Promise<Sample> {
  const started = performance.now();
  run();
  return Promise.resolve({ value: performance.now() - started });
}

export const benches: readonly Bench[] = [
  { name: 'reading 5,000 rules', unit: 'ms', runs: 25, skip: false, measure: () => measure(() => readRuleSet(text)) },
  { name: 'reading and writing 5,000 rules', unit: 'ms', runs: 15, skip: false, measure: () => measure(() => writeRuleSet(readRuleSet(text), { counters: false })) },
];
