import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { readRuleSet } from '../../simulator/netfilter/readRuleSet.ts';
import type { AddressFamily, Backend } from '../../simulator/netfilter/ruleSet.ts';
import { writeRuleSet } from '../../simulator/netfilter/writeRuleSet.ts';
import { findCommand, missingForKernel } from '../requirements.ts';

/**
 * The kernel judges the reader and the writer of rule sets: what iptables-restore takes and refuses, and what
 * iptables-save prints then, byte by byte. Each set is loaded into a network namespace of its own process.
 */

interface RecordedAnswer {
  readonly family: AddressFamily;
  readonly table: string;
  readonly chain: string;
  readonly rule: string;
  readonly saved: readonly string[] | null;
  readonly savedByNft?: readonly string[] | null;
}

interface Loaded {
  readonly isAccepted: boolean;
  /** What iptables-save printed, without comments. */
  readonly saved: string;
  readonly errors: string;
}

const run = promisify(execFile);
const skip = missingForKernel();
const BACKENDS: readonly Backend[] = ['nft', 'legacy'];
const TABLES = ['raw', 'mangle', 'nat', 'filter', 'security'];
const SHARED = fileURLToPath(new URL('../../../shared/data/', import.meta.url));
const shared = existsSync(SHARED) ? false : 'needs ../shared/data with rule sets of others';
const PATIENCE_MILLISECONDS = 240_000;

/** Loads each text into empty tables of one namespace, one after the other. The names of files are numbers: no text reaches the shell. */
const LOAD_ALL = `
for set in "$1"/*.rules; do
  for table in ${TABLES.join(' ')}; do printf '*%s\\nCOMMIT\\n' "$table"; done | "$2-restore" 2>/dev/null
  "$2-restore" < "$set" > /dev/null 2> "$set.errors"
  echo $? > "$set.status"
  "$2-save" > "$set.saved" 2>/dev/null
done
`;

async function load(texts: readonly string[], family: AddressFamily, backend: Backend): Promise<readonly Loaded[]> {
  const folder = await mkdtemp(join(tmpdir(), 'meshpath-rules-'));
  try {
    const files = texts.map((_, index) => join(folder, `${String(index).padStart(6, '0')}.rules`));
    await Promise.all(files.map((file, index) => writeFile(file, texts[index] ?? '')));
    const program = `${family === 'ipv4' ? 'iptables' : 'ip6tables'}-${backend}`;
    await run('unshare', ['-n', '/bin/sh', '-c', LOAD_ALL, 'load', folder, program], { timeout: PATIENCE_MILLISECONDS });
    return await Promise.all(
      files.map(async (file) => ({
        isAccepted: (await readFile(`${file}.status`, 'utf8')).trim() === '0',
        saved: withoutComments(await readFile(`${file}.saved`, 'utf8')),
        errors: await readFile(`${file}.errors`, 'utf8'),
      })),
    );
  } finally {
    await rm(folder, { recursive: true });
  }
}

function withoutComments(text: string): string {
  return text.split('\n').filter((line) => !line.startsWith('#')).join('\n');
}

/** The tables of iptables-save text by their names: the two programs print tables in orders of their own. */
function tablesOf(text: string): ReadonlyMap<string, string> {
  return new Map([...text.matchAll(/^\*(\w+)\n(.*?)^COMMIT$/gms)].map(([, name = '', body = '']) => [name, body]));
}

/** A table without rules of its own, which one program prints and the other does not. */
function isUntouched(body: string): boolean {
  return body.split('\n').every((line) => line === '' || /^:\w+ ACCEPT \[0:0\]$/.test(line));
}

/** What the tests change in sets of others so that any kernel takes them; everything else is as it was. */
function normalise(text: string): string {
  return text
    .replaceAll('\r', '')
    .split('\n')
    .filter((line) => !/^ip6?tables-save$/.test(line))
    .map((line) => line.replaceAll(/\bXX(:XX){5}\b/g, '42:01:02:03:04:05'))
    .join('\n');
}

for (const backend of BACKENDS) {
  const missing = skip === false && findCommand(`iptables-${backend}-restore`) === undefined ? `needs iptables-${backend}-restore` : skip;
  describe(`iptables-${backend} and the reader agree`, { skip: missing, concurrency: false, timeout: PATIENCE_MILLISECONDS }, () => {
    for (const family of ['ipv4', 'ipv6'] as const) {
      test(`the recorded answers are still those of iptables (${family})`, async () => {
        const recorded = JSON.parse(await readFile(new URL('../../simulator/netfilter/iptablesAnswers.fixture.json', import.meta.url), 'utf8')) as readonly RecordedAnswer[];
        const answers = recorded.filter((answer) => answer.family === family);
        const loaded = await load(answers.map(({ table, chain, rule }) => `*${table}\n:NEXT - [0:0]\n-A ${chain} ${rule}\nCOMMIT\n`), family, backend);
        const now = loaded.map(({ isAccepted, saved }, index) => {
          const chain = answers[index]?.chain ?? '';
          return isAccepted ? saved.split('\n').filter((line) => line.startsWith(`-A ${chain} `)).map((line) => line.slice(`-A ${chain} `.length)) : null;
        });
        assert.deepEqual(
          answers.map(({ rule }, index) => [rule, now[index]]),
          answers.map(({ rule, saved, savedByNft }) => [rule, backend === 'nft' && savedByNft !== undefined ? savedByNft : saved]),
        );
      });
    }

    test('iptables-save prints the rule sets of others as the writer does', { skip: shared }, async (context) => {
      const names = (await Promise.all(['rulesets', 'istio'].map(async (folder) => (await readdir(join(SHARED, folder))).map((name) => join(folder, name))))).flat();
      const texts = await Promise.all(names.map(async (name) => normalise(await readFile(join(SHARED, name), 'utf8'))));
      const blocks = names.flatMap((name, index) => splitFamilies(texts[index] ?? '').map(({ family, text }) => ({ name, family, text })));
      for (const family of ['ipv4', 'ipv6'] as const) {
        const sets = blocks.filter((block) => block.family === family).map(({ name, text }) => ({ name, text: withoutRefused(text, family, backend, (line, why) => {
          context.diagnostic(`${name}: left out '${line}': ${why}`);
        }) }));
        const loaded = await load(sets.map(({ text }) => text), family, backend);
        for (const [index, { name, text }] of sets.entries()) {
          const { isAccepted = false, saved = '', errors = '' } = loaded[index] ?? {};
          assert.ok(isAccepted, `${name}: ${errors}`);
          const [printed, wanted] = [tablesOf(writeRuleSet(readRuleSet(text, { family, backend }), { counters: false })), tablesOf(saved)];
          for (const [table, body] of wanted) {
            if (printed.has(table) || !isUntouched(body)) {
              assert.equal(printed.get(table), body, `${name}, table ${table}`);
            }
          }
        }
      }
    });
  });
}

/** Rules that the reader calls errors are left out, one by one, and told: the kernel would refuse the whole set for them. */
function withoutRefused(text: string, family: AddressFamily, backend: Backend, tell: (line: string, why: string) => void): string {
  const refused = new Map(readRuleSet(text, { family, backend }).problems.map(({ line, message }) => [line, message]));
  return text
    .split('\n')
    .filter((line, index) => {
      const why = refused.get(index + 1);
      if (why !== undefined) {
        tell(line.slice(0, 100), why);
      }
      return why === undefined;
    })
    .join('\n');
}

/** Golden files hold the rules of iptables, then those of ip6tables: a table that comes again begins the other family. */
function splitFamilies(text: string): readonly { readonly family: AddressFamily; readonly text: string }[] {
  const seen = new Set<string>();
  const lines = text.split('\n');
  const second = lines.findIndex((line) => {
    const table = /^\*\s*(\w+)/.exec(line)?.[1];
    const isAgain = table !== undefined && seen.has(table);
    seen.add(table ?? '');
    return isAgain;
  });
  const parts = second < 0 ? [lines] : [lines.slice(0, second), lines.slice(second)];
  return parts.map((part, index) => {
    const body = `${part.join('\n')}\n`;
    return { family: index === 1 || readRuleSet(body).family === 'ipv6' ? 'ipv6' : 'ipv4', text: body };
  });
}
