import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, openSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cache, root } from './paths.mjs';
import { findCommand, run } from './run.mjs';
import { setUp } from './setup.mjs';
import { serveSignInLink } from './signInLink.mjs';

const { values: options } = parseArgs({ options: { browser: { type: 'boolean', default: false }, folder: { type: 'string', default: root } } });

const desktop = options.browser ? undefined : findDesktop();
await setUp({ codeServer: desktop === undefined });
const { build } = await import('./build.mjs');
await build({ minify: false, watch: false });
const { quietSettings } = await import('./quietSettings.mjs');
const settings = { ...quietSettings, 'meshpath.connectSimulatedNodeOnStartup': true };
if (desktop === undefined) {
  await openInBrowser();
} else {
  await openOnDesktop(desktop);
}

/**
 * Gives the user's own VS Code, if it can open a window here. In a terminal of a remote window `code` is another program, which
 * cannot load an extension from a folder.
 */
function findDesktop() {
  const hasDisplay = process.platform !== 'linux' || process.env['DISPLAY'] !== undefined || process.env['WAYLAND_DISPLAY'] !== undefined;
  return hasDisplay && process.env['VSCODE_IPC_HOOK_CLI'] === undefined ? findCommand(process.platform === 'win32' ? 'code.cmd' : 'code') : undefined;
}

/**
 * Opens the user's VS Code with the extension loaded from this folder. It gets settings and extensions of its own: the user's stay
 * as they are, and no other extension interferes.
 * @param {string} code
 */
async function openOnDesktop(code) {
  const userData = join(cache, 'desktop/user-data');
  writeSettings(userData);
  const outcome = await run(
    code,
    [
      '--new-window',
      `--extensionDevelopmentPath=${root}`,
      `--user-data-dir=${userData}`,
      `--extensions-dir=${join(cache, 'desktop/extensions')}`,
      '--disable-workspace-trust',
      // Electron's sandbox refuses root.
      ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
      options.folder,
    ],
    { show: true },
  );
  console.log(outcome.code === 0 ? 'VS Code opens with Meshpath in it.' : `${code} ended with ${String(outcome.code)}; npm start -- --browser opens it in a browser.`);
  process.exitCode = outcome.code;
}

/**
 * Opens VS Code in the browser: code-server on loopback, behind a random password, with the extension installed as users get it.
 * The extension host runs as this user with this user's home, so that SSH keys and configuration are there.
 */
async function openInBrowser() {
  const { installCodeServer } = await import('./codeServer.mjs');
  const { makePackage } = await import('./package.mjs');
  const installed = await installCodeServer();
  const vsix = await makePackage({ build: false });
  const folder = join(cache, 'browser');
  const userData = join(folder, 'user-data');
  writeSettings(userData);
  writeFileSync(join(folder, 'config.yaml'), 'auth: password\n', { mode: 0o600 });
  const password = randomBytes(18).toString('base64url');
  const inherited = Object.entries(process.env).filter(([name]) => !/^(VSCODE_|ELECTRON_|CODE_SERVER_)/.test(name));
  // VSCODE_CLI: this environment is that of the user's shell already, so none is started to ask for it.
  const environment = { ...Object.fromEntries(inherited), EXTENSIONS_GALLERY: '{"serviceUrl":""}', PASSWORD: password, VSCODE_CLI: '1' };
  const common = [installed.program, '--config', join(folder, 'config.yaml'), '--user-data-dir', userData, '--extensions-dir', join(folder, 'extensions')];
  const installing = await run(installed.node, [...common, '--install-extension', vsix, '--force'], { env: environment });
  if (installing.code !== 0) {
    throw new Error(`The extension could not be installed: ${installing.stderr}${installing.stdout}`);
  }
  const port = await findFreePort();
  const url = `http://127.0.0.1:${String(port)}`;
  const log = openSync(join(folder, 'server.log'), 'w', 0o600);
  const server = spawn(
    installed.node,
    [...common, '--bind-addr', `127.0.0.1:${String(port)}`, '--disable-telemetry', '--disable-update-check', '--disable-workspace-trust', '--disable-getting-started-override', '--ignore-last-opened'],
    { env: environment, stdio: ['ignore', log, log] },
  );
  const ended = new Promise((resolve) => server.on('exit', resolve));
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(signal, () => server.kill('SIGTERM'));
  }
  await waitUntilUp(url, server, join(folder, 'server.log'));
  const link = await serveSignInLink(url, password, `/?folder=${encodeURIComponent(options.folder)}`);
  console.log(`\nMeshpath runs in VS Code in the browser. Open\n\n  ${link}\n\nwhich signs in to ${url} (password ${password}). Ctrl+C ends it.`);
  openLink(link);
  await ended;
}

/** @param {string} userData */
function writeSettings(userData) {
  mkdirSync(join(userData, 'User'), { recursive: true, mode: 0o700 });
  writeFileSync(join(userData, 'User/settings.json'), `${JSON.stringify(settings, null, 2)}\n`);
}

/**
 * @param {string} url
 * @param {import('node:child_process').ChildProcess} server
 * @param {string} logFile
 */
async function waitUntilUp(url, server, logFile) {
  for (let turn = 0; turn < 600; turn++) {
    if (server.exitCode !== null) {
      break;
    }
    const up = await fetch(`${url}/healthz`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (up) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  server.kill('SIGTERM');
  throw new Error(`code-server did not come up; its log is ${logFile}`);
}

/** @returns {Promise<number>} a loopback port that was free a moment ago */
function findFreePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => {
        resolve(typeof address === 'object' && address !== null ? address.port : 0);
      });
    });
  });
}

/**
 * Opens the user's browser where there is a display.
 * @param {string} link
 */
function openLink(link) {
  const hasDisplay = process.platform !== 'linux' || process.env['DISPLAY'] !== undefined || process.env['WAYLAND_DISPLAY'] !== undefined;
  const opener = findCommand(process.platform === 'darwin' ? 'open' : 'xdg-open');
  if (hasDisplay && opener !== undefined) {
    spawn(opener, [link], { stdio: 'ignore', detached: true }).unref();
  }
}
