import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Page } from 'playwright-core';
import { artifacts, root } from '../../scripts/paths.mjs';
import { launchBrowser, openWindow } from './browser.ts';
import type { Window, WindowOptions } from './browser.ts';
import { startCodeServer } from './codeServer.ts';
import type { CodeServer } from './codeServer.ts';
import { developExtension, openWorkbench } from './workbench.ts';

/** A VS Code with the extension in it, in a browser. */
export interface Session extends AsyncDisposable {
  readonly server: CodeServer;
  readonly window: Window;
  readonly page: Page;
  /** The folder that the window opened: empty. */
  readonly workspace: string;
}

/** How to open a session. Without `vsix` the extension is loaded from the project's folder, which must be built. */
export interface SessionOptions {
  readonly vsix?: string;
  readonly settings?: Readonly<Record<string, unknown>>;
  readonly environment?: Readonly<Record<string, string>>;
  /** The content of ~/.ssh/config. */
  readonly sshConfig?: string;
  readonly window?: WindowOptions;
}

/** Starts a server and a browser, and opens the workbench on an empty folder. Disposing ends all of it, by process group. */
export async function openSession(options: SessionOptions = {}): Promise<Session> {
  const closers: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (let closer = closers.pop(); closer !== undefined; closer = closers.pop()) {
      await closer();
    }
  };
  try {
    const workspace = mkdtempSync(join(tmpdir(), `meshpath-workspace-${process.pid}-`));
    closers.push(() => rm(workspace, { recursive: true, force: true }));
    const server = await startCodeServer({
      workspace,
      ...(options.settings !== undefined && { settings: options.settings }),
      ...(options.sshConfig !== undefined && { sshConfig: options.sshConfig }),
      ...(options.environment !== undefined && { environment: options.environment }),
      ...(options.vsix !== undefined && { vsix: [options.vsix] }),
    });
    closers.push(server.stop);
    const browser = await launchBrowser();
    closers.push(() => browser.close());
    const window = await openWindow(browser, options.window);
    const { page } = window;
    // Closing the page, unlike ending the server, lets the extension deactivate.
    closers.push(() => page.close());
    if (options.vsix === undefined) {
      await developExtension(page, [root]);
    }
    await openWorkbench(page, server.url, workspace);
    return { server, window, page, workspace, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * Runs a test in a session; if it fails, keeps a picture of the window and the logs as artifacts/failures/NAME.*.
 */
export async function withSession(name: string, options: SessionOptions, body: (session: Session) => Promise<void>): Promise<void> {
  await using session = await openSession(options);
  try {
    await body(session);
  } catch (error) {
    const file = join(artifacts, 'failures', name);
    mkdirSync(dirname(file), { recursive: true });
    await session.page.screenshot({ path: `${file}.png` });
    writeFileSync(
      `${file}.log`,
      [session.server.readOutputChannel('Meshpath'), session.server.readExtensionHostLog(), session.window.consoleLines.join('\n')].join('\n──\n'),
    );
    throw error;
  }
}
