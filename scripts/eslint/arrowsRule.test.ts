import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Linter } from 'eslint';
import tseslint from 'typescript-eslint';
import { root } from '../paths.mjs';
import { arrowsRule } from './arrowsRule.mjs';

const linter = new Linter({ cwd: root });

function messagesOf(file: string, code: string): string[] {
  const config = {
    files: ['**/*.ts'],
    languageOptions: { parser: tseslint.parser as Linter.Parser },
    plugins: { meshpath: { rules: { arrows: arrowsRule } } },
    rules: { 'meshpath/arrows': 'error' as const },
  };
  return linter.verify(code, [config], join(root, file)).map(({ message }) => message);
}

const forbidden: readonly (readonly [file: string, code: string, imported: string])[] = [
  ['agent/protocol/node.ts', `import { a } from '../kernel/a.ts';`, '../kernel/a.ts'],
  ['agent/protocol/node.ts', `import { readFileSync } from 'node:fs';`, 'node:fs'],
  ['agent/main.ts', `import { a } from '../simulator/a.ts';`, '../simulator/a.ts'],
  ['agent/main.ts', `import { a } from '../extension/a.ts';`, '../extension/a.ts'],
  ['agent/main.ts', `import { window } from 'vscode';`, 'vscode'],
  ['agent/main.ts', `import koffi from 'koffi';`, 'koffi'],
  ['simulator/world/a.ts', `import { a } from '../../agent/kernel/a.ts';`, '../../agent/kernel/a.ts'],
  ['simulator/world/a.ts', `import { a } from 'node:net';`, 'node:net'],
  ['simulator/world/a.ts', `import { a } from 'fs';`, 'fs'],
  ['simulator/world/a.ts', `import type { Uri } from 'vscode';`, 'vscode'],
  ['extension/views/a.ts', `import { a } from '../../agent/kernel/a.ts';`, '../../agent/kernel/a.ts'],
  ['extension/views/a.ts', `export { a } from '../../agent/main.ts';`, '../../agent/main.ts'],
  ['extension/views/a.ts', `export * from '../../cli/main.ts';`, '../../cli/main.ts'],
  ['extension/views/a.ts', `import { Client } from 'ssh2';`, 'ssh2'],
  ['extension/ssh/a.ts', `import { window } from 'vscode';`, 'vscode'],
  ['extension/node/a.ts', `type Client = import('ssh2').Client;`, 'ssh2'],
  ['extension/node/a.ts', `const vscode = await import('vscode');`, 'vscode'],
  ['extension/node/a.ts', `import { a } from '../views/a.ts';`, '../views/a.ts'],
  ['extension/webviews/app/a.ts', `import { a } from '../../views/a.ts';`, '../../views/a.ts'],
  ['extension/webviews/app/a.ts', `import { a } from 'node:fs';`, 'node:fs'],
  ['extension/webviews/app/a.ts', `import { vsCodeButton } from '@vscode/webview-ui-toolkit';`, '@vscode/webview-ui-toolkit'],
  ['cli/main.ts', `import { a } from '../extension/ssh/a.ts';`, '../extension/ssh/a.ts'],
  ['cli/main.ts', `const { load } = require('koffi');`, 'koffi'],
];

for (const [file, code, imported] of forbidden) {
  test(`${file} must not have: ${code}`, () => {
    const messages = messagesOf(file, code);
    assert.equal(messages.length, 1);
    assert.ok(messages[0]?.endsWith(`must not import ${imported}`), messages[0]);
  });
}

const allowed: readonly (readonly [file: string, code: string])[] = [
  ['agent/libbpf/a.ts', `import koffi from 'koffi'; import { a } from '../protocol/node.ts'; import { join } from 'node:path';`],
  ['simulator/world/a.ts', `import type { Node } from '../../agent/protocol/node.ts'; import { a } from './b.ts';`],
  ['simulator/world/a.test.ts', `import { test } from 'node:test'; import fc from 'fast-check';`],
  ['extension/extension.ts', `import { window } from 'vscode'; import { a } from '../simulator/node.ts'; import { b } from './ssh/b.ts';`],
  ['extension/ssh/connection.ts', `import { Client } from 'ssh2'; import { a } from './hostKeys.ts';`],
  ['extension/webviews/app/toolkit.ts', `import { vsCodeButton } from '@vscode/webview-ui-toolkit';`],
  ['cli/main.ts', `import { a } from '../agent/main.ts'; import { b } from '../simulator/node.ts';`],
  ['test/kernel/a.test.ts', `import { a } from '../../agent/main.ts'; import { b } from '../../extension/ssh/b.ts';`],
];

for (const [file, code] of allowed) {
  test(`${file} may have: ${code}`, () => {
    assert.deepEqual(messagesOf(file, code), []);
  });
}
