import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import { writeRuleSet } from '../../simulator/netfilter/writeRuleSet.ts';

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

/** Milliseconds of the processor that reading the rules takes. */
export function measureReading(): number {
  return measure(() => readRuleSet(text));
}

/** Milliseconds of the processor that reading the rules and writing them takes. */
export function measureReadingAndWriting(): number {
  return measure(() => writeRuleSet(readRuleSet(text), { counters: false }));
}

function measure(run: () => unknown): number {
  const started = process.cpuUsage();
  run();
  // The processor's time and not the clock's: other programs run beside it.
  const { user, system } = process.cpuUsage(started);
  return (user + system) / 1000;
}
