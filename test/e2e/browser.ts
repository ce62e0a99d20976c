import { type Browser, type Page, chromium } from 'playwright-core';
import { findChromium } from '../requirements.ts';

/** A page and what it did that tests look at. */
export interface Window {
  readonly page: Page;
  /** Addresses of other machines that the page asked for. None is reached. */
  readonly outsideRequests: readonly string[];
  /** What the page's console got, one line each. */
  readonly consoleLines: readonly string[];
}

/** How a window looks. */
export interface WindowOptions {
  readonly width?: number;
  readonly height?: number;
  /** Device pixels a CSS pixel: 2 for pictures that stay sharp. */
  readonly scale?: number;
}

const chromiumParameters = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-extensions',
  '--disable-dev-shm-usage',
  '--lang=en-US',
  // Nothing outside this machine.
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost',
];

/** Starts the machine's Chromium without a display. */
export async function launchBrowser(): Promise<Browser> {
  const executablePath = findChromium();
  if (executablePath === undefined) {
    throw new Error('no Chromium on this machine; tests ask missingForBrowser() first');
  }
  return chromium.launch({ executablePath, headless: true, args: chromiumParameters });
}

/** Opens an isolated window: no animation, English, universal time. */
export async function openWindow(browser: Browser, options: WindowOptions = {}): Promise<Window> {
  const context = await browser.newContext({
    viewport: { width: options.width ?? 1440, height: options.height ?? 900 },
    deviceScaleFactor: options.scale ?? 1,
    locale: 'en-US',
    timezoneId: 'UTC',
    reducedMotion: 'reduce',
    permissions: ['clipboard-read', 'clipboard-write'],
  });
  context.setDefaultTimeout(30_000);
  // tsx wraps functions in a helper that keeps their names; those that tests send to the page need it there.
  await context.addInitScript('globalThis.__name ??= (value) => value;');
  const page = await context.newPage();
  const outsideRequests: string[] = [];
  const consoleLines: string[] = [];
  page.on('request', (request) => {
    if (isOutside(new URL(request.url()))) {
      outsideRequests.push(request.url());
    }
  });
  page.on('console', (message) => consoleLines.push(`[${message.type()}] ${message.text()}`));
  page.on('pageerror', (error) => consoleLines.push(`[pageerror] ${error.message}`));
  return { page, outsideRequests, consoleLines };
}

/** The host of webview resources is made up by VS Code: a service worker answers for it. */
function isOutside({ protocol, hostname }: URL): boolean {
  return /^(http|ws)s?:$/.test(protocol) && !/^(127\.0\.0\.1|localhost)$/.test(hostname) && !hostname.endsWith('.vscode-resource.vscode-cdn.net');
}
