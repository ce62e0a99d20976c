import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { cleanCachedAgents } from './cachedAgents.ts';

test('removes agents of other versions that do not run, and nothing else', async () => {
  const home = mkdtempSync(join(tmpdir(), 'meshpath-clean-'));
  const folder = join(home, 'meshpath/agent');
  const [own = '', old = '', running = '', other = ''] = ['a'.repeat(64), 'b'.repeat(64), 'c'.repeat(64), 'notes'].map((name) => join(folder, name));
  for (const path of [own, old, running, other]) {
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, 'agent.cjs'), 'console.log(1); setInterval(() => undefined, 1000)');
  }
  const child = spawn(process.execPath, [join(running, 'agent.cjs')], { stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    await once(child.stdout, 'data');
    const looked = await cleanCachedAgents(own, true);
    assert.deepEqual(looked.map(({ where, isRemoved }) => [where, isRemoved]), [[old, false]]);
    assert.equal(existsSync(old), true);
    const cleaned = await cleanCachedAgents(own, false);
    assert.deepEqual(cleaned.map(({ kind, where, isRemoved, problem }) => [kind, where, isRemoved, problem]), [['cached-agent', old, true, null]]);
    assert.deepEqual([own, old, running, other].map((path) => existsSync(path)), [true, false, true, true]);
    assert.deepEqual(await cleanCachedAgents(own, false), []);
  } finally {
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    rmSync(home, { recursive: true, force: true });
  }
});
