import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CleanReport } from '../../agent/protocol/clean.ts';
import { createFakeNode, runCli } from '../../test/cliSurroundings.ts';
import { cleanCommand } from './clean.ts';

const KEPT = { kind: 'kept-acceleration', where: '/sys/fs/bpf/meshpath/set-1', what: 'Acceleration (istio) that is kept for /a\u001b.', problem: null } as const;

async function clean(report: CleanReport, ...words: readonly string[]): Promise<{ readonly code: number; readonly output: string; readonly asked: readonly boolean[] }> {
  const asked: boolean[] = [];
  const fake = createFakeNode({
    cleanNode: ({ isDryRun }) => {
      asked.push(isDryRun);
      return Promise.resolve(report);
    },
  });
  const { code, output } = await runCli(['clean', ...words], { commands: [cleanCommand], node: fake.node });
  return { code, output, asked };
}

test('what was removed is listed, with nothing of it taken for control characters', async () => {
  const { code, output, asked } = await clean({ items: [{ ...KEPT, isRemoved: true }] });
  assert.deepEqual([code, asked], [0, [false]]);
  assert.match(output, /^removed {2}\/sys\/fs\/bpf\/meshpath\/set-1 {2}Acceleration \(istio\) that is kept for \/a\\x1b\.\n$/);
});

test('a dry run only lists; nothing is a sentence; JSON is what the node answered', async () => {
  const dry = await clean({ items: [{ ...KEPT, isRemoved: false }] }, '--dry-run');
  assert.deepEqual([dry.code, dry.asked], [0, [true]]);
  assert.match(dry.output, /^would be removed/);
  assert.match((await clean({ items: [] })).output, /nothing to clean up/);
  const report = { items: [{ ...KEPT, isRemoved: true }] };
  assert.deepEqual(JSON.parse((await clean(report, '--json')).output), report);
});

test('what cannot be removed is told with its reason, and fails', async () => {
  const problem = { code: 'ACCELERATION_HELD', message: 'Another agent has it.', reason: 'Process 7.', remedy: 'End it.' } as const;
  const { code, output } = await clean({ items: [{ ...KEPT, isRemoved: false, problem }] });
  assert.equal(code, 1);
  assert.match(output, /^not removed .*\n {2}Another agent has it\. Process 7\. End it\.\n$/);
});
