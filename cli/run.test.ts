import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFakeNode, runCli } from '../test/cliSurroundings.ts';
import { MeshpathError } from '../agent/protocol/errors.ts';
import { EXIT_OK } from './command.ts';
import type { Command } from './command.ts';
import { doctorCommand } from './commands/doctor.ts';

const commands = [doctorCommand];

test('the version is printed', async () => {
  assert.deepEqual(await runCli(['--version'], { commands }), { code: 0, output: '1.2.3\n', notes: '' });
});

test('help needs no node', async () => {
  const { code, output } = await runCli(['doctor', '--help'], { commands });
  assert.equal(code, 0);
  assert.match(output, /^Usage: meshpath doctor \[OPTION\]…\n/);
});

test('wrong usage ends with 2, and is JSON where JSON was asked for', async () => {
  const plain = await runCli(['nonsense'], { commands });
  assert.equal(plain.code, 2);
  assert.equal(plain.output, '');
  assert.equal(
    plain.notes,
    "meshpath: There is no command 'nonsense'. (INPUT_INVALID)\n  Why:   The commands are doctor.\n  To do: Run meshpath --help to see what can be given.",
  );
  const json = await runCli(['nonsense', '--json'], { commands });
  assert.equal(json.code, 2);
  assert.deepEqual(JSON.parse(json.notes), {
    error: {
      code: 'INPUT_INVALID',
      message: "There is no command 'nonsense'.",
      reason: 'The commands are doctor.',
      remedy: 'Run meshpath --help to see what can be given.',
    },
  });
});

test('a failure is told with reason and remedy, escaped, and the node is closed', async () => {
  const fake = createFakeNode({
    runDoctor: () =>
      Promise.reject(new MeshpathError({ code: 'BTF_MISSING', message: 'No BTF\u001b[2J.', reason: 'first\nsecond', remedy: 'Build a kernel.' })),
  });
  const { code, output, notes } = await runCli(['doctor'], { commands, node: fake.node });
  assert.equal(code, 1);
  assert.equal(output, '');
  assert.equal(notes, 'meshpath: No BTF\\x1b[2J. (BTF_MISSING)\n  Why:   first\n         second\n  To do: Build a kernel.');
  assert.equal(fake.isDisposed(), true);
});

test('--verbose adds the stack and what caused it', async () => {
  const fake = createFakeNode({ runDoctor: () => Promise.reject(new Error('out of cheese')) });
  const { notes } = await runCli(['doctor', '--verbose'], { commands, node: fake.node });
  assert.match(notes, /\(INTERNAL\)\n {2}Why: {3}out of cheese/);
  assert.match(notes, /caused by\nError: out of cheese\n +at /);
});

test('where no node can be reached that is told', async () => {
  const { code, notes } = await runCli(['doctor', '--json'], { commands });
  assert.equal(code, 1);
  assert.equal((JSON.parse(notes) as { error: { code: string } }).error.code, 'CAPABILITY_MISSING');
});

test('a stop ends a command that waits, and closes its node', async () => {
  const stop = new AbortController();
  const fake = createFakeNode({
    runDoctor: () => {
      stop.abort();
      return new Promise(() => undefined);
    },
  });
  const { code, notes } = await runCli(['doctor'], { commands, node: fake.node, stop: stop.signal });
  assert.equal(code, 1);
  assert.equal(notes, '');
  assert.equal(fake.isDisposed(), true);
});

test('commands share one connection', async () => {
  let connections = 0;
  const twice: Command = {
    ...doctorCommand,
    run: async ({ connect }) => {
      assert.equal(await connect(), await connect());
      connections++;
      return EXIT_OK;
    },
  };
  const { node } = createFakeNode({});
  assert.equal((await runCli(['doctor'], { commands: [twice], node })).code, 0);
  assert.equal(connections, 1);
});
