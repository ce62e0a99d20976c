import { readFileSync } from 'node:fs';
import type { KernelNetwork } from './kernelNetwork.ts';

/** Rule sets as they were found: of any age, edited by people who wanted to hide something, in more forms than one. */

/** A rule set of a file, as near to the file as the kernel takes it. */
export interface LoadableRuleSet {
  readonly ipv4: string;
  readonly ipv6: string;
  /** What was changed for the kernel: `line 12 left out (unknown option …): -A …`. */
  readonly changes: readonly string[];
}

/** How many lines are left out before a file is given up. */
const MAX_LEFT_OUT = 40;

/**
 * Reads a file: a dump of iptables-save, or restore input of istio-iptables, where the blocks of IPv6 follow those of IPv4
 * without a word: a table that comes again begins them.
 */
export function readRuleSetFile(path: string): { readonly ipv4: string; readonly ipv6: string } {
  const texts = { ipv4: '', ipv6: '' };
  const seen = new Set<string>();
  let family: 'ipv4' | 'ipv6' = 'ipv4';
  let isInside = false;
  for (const line of readFileSync(path, 'latin1').split(/\r?\n/)) {
    const table = /^\*\s*(\w+)\s*$/.exec(line)?.[1];
    if (table !== undefined) {
      family = seen.has(table) ? 'ipv6' : family;
      seen.add(table);
      isInside = true;
    }
    if (isInside) {
      texts[family] += `${table === undefined ? line : `*${table}`}\n`;
    }
    isInside &&= line.trim() !== 'COMMIT';
  }
  return texts;
}

/** Reads a file that holds the rules of one family; what stands outside of its tables is left out. */
export function readRuleSetText(path: string): string {
  const { ipv4, ipv6 } = readRuleSetFile(path);
  return ipv4 + ipv6;
}

/** Leaves out, line by line, what the kernel refuses; loads the rest. Rejects where too much would be left out. */
export async function loadWhatLoads(network: KernelNetwork, namespace: string, texts: { readonly ipv4: string; readonly ipv6: string }): Promise<LoadableRuleSet> {
  const current = { ipv4: hideNothing(texts.ipv4), ipv6: hideNothing(texts.ipv6) };
  const changes: string[] = [];
  if (current.ipv4 !== texts.ipv4) {
    changes.push('link addresses that were made unreadable are 00:16:3e:00:00:01');
  }
  for (;;) {
    try {
      await network.load([{ namespace, ...current }]);
      return { ...current, changes };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const number = Number(/line:? (\d+)/.exec(message)?.[1] ?? 0);
      const family = message.startsWith('ip6tables') ? 'ipv6' : 'ipv4';
      const lines = current[family].split('\n');
      const line = lines[number - 1];
      if (line?.startsWith('-') !== true || changes.length >= MAX_LEFT_OUT) {
        throw error;
      }
      changes.push(`line ${number} left out (${(message.split('\n').find((text) => /unknown|invalid|failed|need|must|bad|can't|cannot/i.test(text)) ?? '').replace(/^.*\): /, '')}): ${line}`);
      // An empty line keeps the numbers of the others.
      lines[number - 1] = '';
      current[family] = lines.join('\n');
    }
  }
}

function hideNothing(text: string): string {
  return text.replaceAll(/\bXX:XX:XX:XX:XX:XX\b/g, '00:16:3e:00:00:01');
}
