import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makePackage } from '../../scripts/package.mjs';
import { withSession } from './session.ts';
import type { SessionOptions } from './session.ts';
import { expandTreeRow, openSidebar, readTree, runCommand, saveScreenshot } from './workbench.ts';
import { missingForWorkbench } from './workbenchRequirements.ts';

const skip = missingForWorkbench();

async function connectSimulatedNode(name: string, options: SessionOptions): Promise<void> {
  await withSession(name, options, async ({ page, window, server }) => {
    await runCommand(page, 'Meshpath: Connect to Simulated Node');
    await openSidebar(page, 'Meshpath');
    const rows = await readTree(page, 'Nodes');
    const node = rows.find(({ level }) => level === 1);
    assert.ok(node !== undefined, 'the view shows a node');
    await expandTreeRow(page, 'Nodes', node.label);
    await saveScreenshot(page, `${name}-simulated-node`);
    assert.deepEqual(window.outsideRequests, []);
    assert.doesNotMatch(server.readExtensionHostLog(), /\[error\].*meshpath/i);
  });
}

test('from the sources, the extension activates in VS Code and shows a simulated node', { skip }, async () => {
  await connectSimulatedNode('development', {});
});

test('installed from its package, the extension activates in VS Code and shows a simulated node', { skip }, async () => {
  await connectSimulatedNode('installed', { vsix: await makePackage({ build: false }) });
});
