import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { ErrorCode } from '../../agent/protocol/errors.ts';
import { selectAgentFiles } from './agentBundle.ts';
import { parseFindings, readCacheFolder, requireLinux } from './preflight.ts';
import { buildStartScript, choosePrivilege, createSudoDialog, explainSudoFailure } from './privilege.ts';
import { chooseNodeRuntime } from './remoteNodeRuntime.ts';
import { quoteForShell } from './shellScript.ts';

function codeOf(work: () => unknown): ErrorCode | 'none' {
  try {
    work();
    return 'none';
  } catch (error) {
    assert.ok(error instanceof MeshpathError, String(error));
    return error.code;
  }
}

const found = (...lines: string[]): ReturnType<typeof parseFindings> => parseFindings(lines.join('\n'));

describe('what a node says of itself', () => {
  test('paths and systems that cannot be used are refused', () => {
    assert.equal(codeOf(() => { requireLinux(found('system\tDarwin')); }), 'AGENT_PLATFORM_UNSUPPORTED');
    assert.equal(codeOf(() => { requireLinux(found('system\tLinux')); }), 'none');
    assert.equal(readCacheFolder(found('cache\t/home/me/.cache/')), '/home/me/.cache');
    for (const path of ['', 'relative', '/a\u0007b', `/${'x'.repeat(2000)}`]) {
      assert.equal(codeOf(() => readCacheFolder(found(`cache\t${path}`))), 'AGENT_UPLOAD_FAILED');
    }
  });

  test('Node.js: the first that is new enough; else what to install on this distribution', () => {
    const old = 'node\tv18.1.0 x64 glibc /usr/bin/node';
    const good = 'node\tv22.1.0 arm64 musl /opt/with space/node';
    assert.deepEqual(chooseNodeRuntime(found(old, good), undefined), { path: '/opt/with space/node', version: 'v22.1.0', arch: 'arm64', libc: 'musl' });
    assert.equal(codeOf(() => chooseNodeRuntime(found(old), undefined)), 'AGENT_NODE_TOO_OLD');
    for (const [lines, words] of [
      [['distribution\tdebian'], 'apt-get'],
      [['distribution\t"rocky"', 'distribution-like\t"rhel centos fedora"'], 'dnf'],
      [['distribution\talpine'], 'apk add'],
      [['distribution\tnixos'], 'nodejs.org'],
    ] as const) {
      assert.throws(() => chooseNodeRuntime(found(...lines, 'node\tnonsense'), undefined), (error) => MeshpathError.is(error, 'AGENT_NODE_MISSING') && error.remedy.includes(words));
    }
  });

  test('files for the kind of machine; none is a clear error', () => {
    const file = (name: string, arch?: string, libc?: string): { name: string; sha256: string; bytes: number; arch?: string; libc?: string } => ({
      name, sha256: '', bytes: 1, ...(arch === undefined ? {} : { arch }), ...(libc === undefined ? {} : { libc }),
    });
    const bundle = { folder: '', version: '', contentHash: '', files: [file('agent.cjs'), file('a', 'x64', 'glibc'), file('b', 'x64', 'musl'), file('c', 'arm64', 'glibc')] };
    assert.deepEqual(selectAgentFiles(bundle, { arch: 'x64', libc: 'musl' }).map(({ name }) => name), ['agent.cjs', 'b']);
    assert.equal(codeOf(() => selectAgentFiles(bundle, { arch: 'arm64', libc: 'musl' })), 'AGENT_PLATFORM_UNSUPPORTED');
    assert.equal(codeOf(() => selectAgentFiles(bundle, { arch: 's390x', libc: 'glibc' })), 'AGENT_PLATFORM_UNSUPPORTED');
  });
});

describe('rights', () => {
  test('are chosen from what was found', () => {
    assert.deepEqual(
      [found('uid\t0'), found('uid\t1', 'sudo\tfree'), found('uid\t1', 'sudo\tpassword'), found('uid\t1', 'sudo\tmissing'), found()].map((findings) => choosePrivilege(findings).kind),
      ['root', 'sudo', 'sudo-with-password', 'none', 'none'],
    );
  });

  test('words of a command stay words', () => {
    const script = buildStartScript({ kind: 'root' }, ['printf', '%s|', `it's`, '$HOME', '`id`', 'a b'], { NAME: 'x y' }, '');
    assert.equal(execFileSync('/bin/sh', ['-c', script], { encoding: 'utf8' }), `\nit's|$HOME|\`id\`|a b|`);
  });

  test('any word survives quoting', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 40 }).filter((word) => !word.includes('\0')), (word) => {
        assert.equal(execFileSync('/bin/sh', ['-c', `printf %s ${quoteForShell(word)}`], { encoding: 'utf8' }), word);
      }),
      { numRuns: 30 },
    );
  });

  test('a password is only written after sudo has asked, also where its prompt comes in pieces', async () => {
    const written: string[] = [];
    const dialog = createSudoDialog({
      prompt: '[prompt]',
      ask: async (attempt) => Promise.resolve(`secret${attempt}`),
      write: (line) => written.push(line),
      decline: () => written.push('declined'),
    });
    dialog.accept('some words [pro');
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(written, []);
    dialog.accept('mpt]');
    await new Promise((resolve) => setImmediate(resolve));
    dialog.accept('Sorry, try again.\n[prompt]');
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(written, ['secret1\n', 'secret2\n']);
    assert.deepEqual(dialog.result, { asked: 2, isDeclined: false, words: 'some words Sorry, try again.' });
  });

  test('what a failed start under sudo means', () => {
    assert.equal(explainSudoFailure({ asked: 0, isDeclined: false, words: '' }), undefined);
    assert.equal(explainSudoFailure({ asked: 1, isDeclined: false, words: 'not in the sudoers file' })?.reason, 'not in the sudoers file');
    assert.equal(explainSudoFailure({ asked: 3, isDeclined: true, words: '' })?.code, 'SUDO_UNAVAILABLE');
    assert.equal(codeOf(() => explainSudoFailure({ asked: 3, isDeclined: false, words: '' })), 'SUDO_PASSWORD_WRONG');
  });
});
