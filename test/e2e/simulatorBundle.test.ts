import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { dist } from '../../scripts/paths.mjs';
import { launchBrowser, openWindow } from './browser.ts';
import { missingForWorkbench } from './workbenchRequirements.ts';

test('the simulator runs in a browser page on its own and explains a connection', { skip: missingForWorkbench() }, async () => {
  const server = createServer((request, response) => {
    if (request.url === '/simulator.js') {
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(readFileSync(join(dist, 'simulator.js')));
    } else {
      response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html><title>simulator</title>');
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const browser = await launchBrowser();
  try {
    const address = server.address();
    assert.ok(typeof address === 'object' && address !== null);
    const { page, outsideRequests, consoleLines } = await openWindow(browser);
    await page.goto(`http://127.0.0.1:${address.port}/`);
    const names = await page.evaluate(async () => Object.keys((await import(new URL('/simulator.js', location.href).href)) as object));
    assert.ok(names.length > 0, 'the bundle exports something');
    assert.deepEqual(outsideRequests, []);
    assert.deepEqual(consoleLines.filter((line) => line.startsWith('[error]') || line.startsWith('[pageerror]')), []);
  } finally {
    await browser.close();
    server.close();
  }
});
