import type { CaseDraft } from './generateCase.ts';
import type { JudgeRules } from './judgeCase.ts';

/** How many times a case is tried again while it is made smaller. */
const MAX_TRIES = 400;

/**
 * Makes a case as small as it gets while `stillDiffers` holds: fewer stimuli first, then fewer rules, then fewer words in
 * the rules, then plainer packets. What cannot be loaded does not differ.
 */
export async function shrinkCase(draft: CaseDraft, stillDiffers: (smaller: CaseDraft) => Promise<boolean>): Promise<CaseDraft> {
  let tries = 0;
  const accepts = async (smaller: CaseDraft): Promise<boolean> => {
    tries += 1;
    return tries <= MAX_TRIES && (await stillDiffers(smaller));
  };
  let current = draft;
  for (let before = ''; before !== JSON.stringify(current) && tries < MAX_TRIES; ) {
    before = JSON.stringify(current);
    current = { ...current, stimuli: await removeParts(current.stimuli, (stimuli) => accepts({ ...current, stimuli })) };
    for (const family of ['ipv4', 'ipv6'] as const) {
      for (const { namespace } of current.rules) {
        const lines = linesOf(current.rules, namespace, family);
        const kept = await removeParts(lines, (some) => accepts(withLines(current, namespace, family, some)));
        current = withLines(current, namespace, family, kept);
        current = await shortenRules(current, namespace, family, accepts);
      }
    }
    current = await plainPackets(current, accepts);
  }
  return { ...current, rules: current.rules.filter(({ ipv4, ipv6 }) => ipv4 !== '' || ipv6 !== '') };
}

/** Takes away halves, quarters and so on down to single parts (delta debugging). */
async function removeParts<Part>(parts: readonly Part[], accepts: (some: readonly Part[]) => Promise<boolean>): Promise<readonly Part[]> {
  let current = parts;
  for (let size = Math.ceil(current.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let start = 0; start < current.length; ) {
      const some = [...current.slice(0, start), ...current.slice(start + size)];
      if (some.length < current.length && (await accepts(some))) {
        current = some;
      } else {
        start += size;
      }
    }
  }
  return current;
}

/** Takes options out of rules one by one. */
async function shortenRules(draft: CaseDraft, namespace: string, family: 'ipv4' | 'ipv6', accepts: (smaller: CaseDraft) => Promise<boolean>): Promise<CaseDraft> {
  let current = draft;
  for (const index of linesOf(draft.rules, namespace, family).keys()) {
    for (let part = 0; ; part += 1) {
      const lines = linesOf(current.rules, namespace, family);
      const entry = lines[index];
      const line = entry === undefined ? undefined : withoutOption(entry.line, part);
      if (entry === undefined || line === undefined) {
        break;
      }
      const smaller = withLines(current, namespace, family, lines.with(index, { ...entry, line }));
      if (await accepts(smaller)) {
        current = smaller;
        part -= 1;
      }
    }
  }
  return current;
}

/** Gives a rule without its nth group of words: a module with its options, or an option with its values. */
function withoutOption(line: string, part: number): string | undefined {
  const head = /^-A \S+/.exec(line)?.[0];
  const target = / -[jg] .*$/.exec(line)?.[0] ?? '';
  if (head === undefined) {
    return undefined;
  }
  const groups = line.slice(head.length, line.length - target.length).match(/ -m \S+(?: (?:! )?--\S+(?: (?!-|! )\S+)*)*| (?:! )?-\w \S+/g) ?? [];
  return part >= groups.length ? undefined : `${head}${groups.filter((_, index) => index !== part).join('')}${target}`;
}

async function plainPackets(draft: CaseDraft, accepts: (smaller: CaseDraft) => Promise<boolean>): Promise<CaseDraft> {
  let current = draft;
  for (const [index, stimulus] of draft.stimuli.entries()) {
    if (stimulus.kind === 'connect' || stimulus.kind === 'datagram') {
      continue;
    }
    const { source, destination, transport, macSource } = stimulus.packet;
    const plain = { ...stimulus, packet: { source, destination, transport, payload: 8, ...(macSource === undefined ? {} : { macSource }) } };
    const smaller = { ...current, stimuli: current.stimuli.with(index, plain) };
    current = JSON.stringify(smaller) !== JSON.stringify(current) && (await accepts(smaller)) ? smaller : current;
  }
  return current;
}

/** A line of a rule set that can be left out, and the table that it is in. */
interface TableLine {
  readonly table: string;
  readonly line: string;
}

function linesOf(rules: readonly JudgeRules[], namespace: string, family: 'ipv4' | 'ipv6'): readonly TableLine[] {
  const text = rules.find((entry) => entry.namespace === namespace)?.[family] ?? '';
  let table = '';
  return text.split('\n').flatMap((line) => {
    table = /^\*(\w+)/.exec(line)?.[1] ?? table;
    return /^(?:\*.*|#.*|COMMIT)?$/.test(line) ? [] : [{ table, line }];
  });
}

/** A table without lines leaves itself out. */
function withLines(draft: CaseDraft, namespace: string, family: 'ipv4' | 'ipv6', lines: readonly TableLine[]): CaseDraft {
  const tables = [...new Set(lines.map(({ table }) => table))];
  const text = tables.map((table) => `*${table}\n${lines.filter((entry) => entry.table === table).map(({ line }) => `${line}\n`).join('')}COMMIT\n`).join('');
  return { ...draft, rules: draft.rules.map((entry) => (entry.namespace === namespace ? { ...entry, [family]: text } : entry)) };
}
