import { randomBytes } from 'node:crypto';
import * as vscode from 'vscode';
import { createResponder, type Contract, type RequestHandlers, type Responder } from '../shared/messages.ts';
import { writePage } from './pageHtml.ts';

export interface PanelContent<C extends Contract> {
  readonly title: string;
  /** The name of the page in dist/webviews: `map`, `explain`. */
  readonly page: string;
  readonly handlers: RequestHandlers<C>;
}

/** Where the built pages are. */
export function pagesFolder(extensionUri: vscode.Uri): vscode.Uri {
  return vscode.Uri.joinPath(extensionUri, 'dist', 'webviews');
}

/** What a page may do: run its script, and load nothing from outside its folder. */
export function pageOptions(extensionUri: vscode.Uri): vscode.WebviewOptions {
  return { enableScripts: true, localResourceRoots: [pagesFolder(extensionUri)] };
}

/** Fills a webview panel with a page and answers what it asks until it is closed. */
export function servePanel<C extends Contract>(panel: vscode.WebviewPanel, extensionUri: vscode.Uri, content: PanelContent<C>): Responder<C> {
  const { webview } = panel;
  const responder = createResponder<C>((message) => {
    void webview.postMessage(message);
  }, content.handlers);
  const listening = webview.onDidReceiveMessage((message: unknown) => {
    responder.receive(message);
  });
  panel.onDidDispose(() => {
    responder.dispose();
    listening.dispose();
  });
  panel.title = content.title;
  const iconOf = (theme: string): vscode.Uri => vscode.Uri.joinPath(extensionUri, 'media', 'panels', `${content.page}-${theme}.svg`);
  panel.iconPath = { light: iconOf('light'), dark: iconOf('dark') };
  webview.options = pageOptions(extensionUri);
  const fileOf = (name: string): string => webview.asWebviewUri(vscode.Uri.joinPath(pagesFolder(extensionUri), name)).toString();
  webview.html = writePage({
    title: content.title,
    nonce: randomBytes(16).toString('base64url'),
    cspSource: webview.cspSource,
    script: fileOf(`${content.page}.page.js`),
    style: fileOf(`${content.page}.page.css`),
  });
  return responder;
}
