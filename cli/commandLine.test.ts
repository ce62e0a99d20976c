import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MeshpathError } from '../agent/protocol/errors.ts';
import type { Command } from './command.ts';
import { parseCommandLine, parseCount } from './commandLine.ts';
import { formatCommandHelp, formatProgramHelp } from './help.ts';

const paint: Command = {
  name: 'paint',
  summary: 'Paint a wall.',
  usage: 'WALL [COLOUR]',
  operands: { min: 1, max: 2 },
  description: ['Paints WALL.', 'In COLOUR where it is given.'],
  options: {
    coats: { type: 'string', valueName: 'N', description: 'Paint N coats.' },
    room: { type: 'string', multiple: true, valueName: 'ROOM', short: 'r', description: 'A room.' },
  },
  run: () => Promise.resolve(0),
};
const rest: Command = { ...paint, name: 'rest', summary: 'Do nothing.', usage: '', operands: { min: 0, max: 0 }, options: {} };
const commands = [paint, rest];

function argumentsOf(...words: readonly string[]) {
  const invocation = parseCommandLine(words, commands);
  assert.equal(invocation.kind, 'run');
  return invocation.arguments;
}

test('options stand anywhere, repeat where they may, and -- ends them', () => {
  const args = argumentsOf('--json', 'paint', '-r', 'kitchen', 'north', '--coats=2', '--room', 'hall', '--', '--white');
  assert.deepEqual(args.operands, ['north', '--white']);
  assert.deepEqual(args.texts('room'), ['kitchen', 'hall']);
  assert.equal(args.text('coats'), '2');
  assert.equal(args.text('nothing'), undefined);
  assert.equal(args.flag('json'), true);
  assert.equal(args.flag('verbose'), false);
});

test('a boolean option may be switched off in words', () => {
  const args = argumentsOf('paint', 'wall', '--json=true', '--verbose=false', '--', '--json=false');
  assert.deepEqual([args.flag('json'), args.flag('verbose'), args.text('verbose'), args.text('help')], [true, false, 'false', undefined]);
  assert.deepEqual(args.operands, ['wall', '--json=false']);
});

test('help and version are asked for in the usual ways', () => {
  assert.deepEqual(parseCommandLine(['--help'], commands), { kind: 'help', command: null });
  assert.deepEqual(parseCommandLine(['help'], commands), { kind: 'help', command: null });
  assert.deepEqual(parseCommandLine(['help', 'paint'], commands), { kind: 'help', command: paint });
  assert.deepEqual(parseCommandLine(['paint', '-h'], commands), { kind: 'help', command: paint });
  assert.deepEqual(parseCommandLine(['--version'], commands), { kind: 'version' });
});

test('names of several words form families, each with short options of its own', () => {
  const brush: Command = { ...paint, name: 'buy brush', options: { colour: { type: 'string', short: 'r', description: 'Its colour.' } } };
  const tin: Command = { ...rest, name: 'buy tin', options: { red: { type: 'boolean', short: 'r', description: 'A red one.' } } };
  const family = [paint, rest, brush, tin];
  const invocation = parseCommandLine(['buy', 'brush', '-r', 'blue', 'wall'], family);
  assert.equal(invocation.kind, 'run');
  assert.equal(invocation.command, brush);
  assert.deepEqual([invocation.arguments.operands, invocation.arguments.text('colour')], [['wall'], 'blue']);
  const other = parseCommandLine(['buy', 'tin', '-r'], family);
  assert.equal(other.kind === 'run' && other.arguments.flag('red'), true);
  assert.deepEqual(parseCommandLine(['help', 'buy', 'tin'], family), { kind: 'help', command: tin });
  for (const words of [['buy', '--help'], ['help', 'buy']]) {
    assert.deepEqual(parseCommandLine(words, family.filter((command) => command.name !== 'buy')), { kind: 'groupHelp', name: 'buy', commands: family.filter((command) => command.name.startsWith('buy ')) });
  }
  assert.throws(() => parseCommandLine(['buy'], family), (error: unknown) => MeshpathError.is(error, 'INPUT_INVALID') && /buy needs more.*buy brush, buy tin/.test(`${error.message} ${error.reason}`));
  assert.throws(() => parseCommandLine(['buy', 'paint'], family), (error: unknown) => MeshpathError.is(error) && error.message === "There is no command 'buy paint'.");
});

const wrong: readonly (readonly [words: readonly string[], says: RegExp])[] = [
  [[], /No command/],
  [['pain'], /no command 'pain'/],
  [['\u001b[31m'], /no command '\\x1b\[31m'/],
  [['help', 'pain'], /no command 'pain'/],
  [['rest', '--coats', '2'], /rest has no option --coats/],
  [['paint', 'wall', '--colour'], /Unknown option '--colour'/],
  [['paint', 'wall', '--coats'], /--coats/],
  [['paint', 'wall', '--json=yes'], /--json/],
  [['paint'], /needs more/],
  [['rest', 'now'], /do with 'now'/],
];
for (const [words, says] of wrong) {
  test(`wrong usage is told: meshpath ${JSON.stringify(words)}`, () => {
    assert.throws(
      () => parseCommandLine(words, commands),
      (error: unknown) => {
        assert.ok(MeshpathError.is(error, 'INPUT_INVALID'));
        assert.match(`${error.message} ${error.reason}`, says);
        assert.match(error.remedy, /--help/);
        return true;
      },
    );
  });
}

test('no words whatever end in anything but an invocation or a MeshpathError', () => {
  const word = fc.oneof(fc.constantFrom('paint', 'rest', '--json', '--room', '-r', '--', '-', '--help', '--__proto__', '--toString=1'), fc.string());
  fc.assert(
    fc.property(fc.array(word, { maxLength: 6 }), (words) => {
      try {
        parseCommandLine(words, commands);
      } catch (error) {
        assert.ok(MeshpathError.is(error, 'INPUT_INVALID'), String(error));
      }
    }),
  );
});

test('counts are whole numbers within their limits', () => {
  assert.equal(parseCount('limit', '25', 1, 100), 25);
  for (const text of ['', '0', '101', '1.5', '1e1', '-1', ' 5', '0x5', '99999999999999999999']) {
    assert.throws(() => parseCount('limit', text, 1, 100), { code: 'INPUT_INVALID' });
  }
});

test('help shows commands, options and exit codes', () => {
  assert.equal(
    formatProgramHelp(commands).join('\n'),
    `Meshpath shows, explains and safely changes the path that service-mesh traffic takes on a Linux node.

Usage: meshpath COMMAND [OPTION]…

Commands:
  paint  Paint a wall.
  rest   Do nothing.

Options of every command:
  --json       Print JSON for programs; an error is JSON too, on standard error.
  --simulated  Use the simulated node: no root and no Linux needed.
  --verbose    Print more: details, and the stack of an error.
  -h, --help   Print help.

meshpath COMMAND --help tells more of a command; meshpath --version prints the version.
Exit codes: 0 done, 1 failed or not as it should be, 2 wrong usage, 128 + N ended by signal N.`,
  );
  assert.equal(
    formatCommandHelp(paint).join('\n'),
    `Usage: meshpath paint WALL [COLOUR] [OPTION]…

Paints WALL.

In COLOUR where it is given.

Options:
  --coats N        Paint N coats.
  -r, --room ROOM  A room. May be repeated.

Options of every command:
  --json       Print JSON for programs; an error is JSON too, on standard error.
  --simulated  Use the simulated node: no root and no Linux needed.
  --verbose    Print more: details, and the stack of an error.
  -h, --help   Print help.`,
  );
});
