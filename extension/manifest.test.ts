import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { COMMANDS, INITIAL_CONTEXT, ROW_KINDS, SETTING_DEFAULTS, VIEWS, VIEW_CONTAINER, WALKTHROUGH, WEBVIEW_TYPES } from './contributions.ts';

interface MenuItem {
  readonly command: string;
  readonly when?: string;
}

interface Manifest {
  readonly icon: string;
  readonly activationEvents: readonly string[];
  readonly capabilities: { readonly untrustedWorkspaces: { readonly restrictedConfigurations: readonly string[] } };
  readonly contributes: {
    readonly commands: readonly { readonly command: string; readonly title: string; readonly category: string; readonly icon: string }[];
    readonly menus: Readonly<Record<string, readonly MenuItem[]>>;
    readonly views: Readonly<Record<string, readonly { readonly id: string; readonly icon: string }[]>>;
    readonly viewsContainers: { readonly activitybar: readonly { readonly id: string; readonly icon: string }[] };
    readonly viewsWelcome: readonly { readonly view: string; readonly contents: string; readonly when: string }[];
    readonly configuration: { readonly properties: Readonly<Record<string, { readonly default: unknown }>> };
    readonly walkthroughs: readonly {
      readonly id: string;
      readonly title: string;
      readonly icon: string;
      readonly steps: readonly {
        readonly id: string;
        readonly description: string;
        readonly media: { readonly svg: string; readonly altText: string };
        readonly completionEvents: readonly string[];
      }[];
    }[];
  };
}

const root = join(import.meta.dirname, '..');
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;
const { contributes } = manifest;
const commandIds = new Set<string>(Object.values(COMMANDS));
const menus = Object.entries(contributes.menus);

test('every command is contributed once, with a title, the category and an icon', () => {
  assert.deepEqual(contributes.commands.map((command) => command.command).sort(), [...commandIds].sort());
  for (const command of contributes.commands) {
    assert.ok(command.title !== '' && command.category === 'Meshpath' && (command.command === COMMANDS.showMoreRows || /^\$\([a-z-]+\)$/.test(command.icon)), command.command);
  }
});

test('menus, welcome texts and walkthroughs name only commands that exist', () => {
  const inMenus = menus.flatMap(([, items]) => items.map((item) => item.command));
  const texts = [...contributes.viewsWelcome.map((welcome) => welcome.contents), ...contributes.walkthroughs.flatMap((walkthrough) => walkthrough.steps.map((step) => step.description))];
  const inTexts = texts.flatMap((text) => [...text.matchAll(/\(command:([^)]+)\)/g)].map((match) => match[1] ?? ''));
  const known = new Set([...commandIds, `${VIEWS.nodes}.focus`]);
  assert.deepEqual(
    [...inMenus, ...inTexts].filter((command) => !known.has(command)),
    [],
  );
  assert.ok(inTexts.length >= contributes.walkthroughs.length);
});

test('every key that a when clause asks is one that is set, and every key that is set is asked', () => {
  const clauses = [
    ...menus.flatMap(([, items]) => items.map((item) => item.when ?? '')),
    ...contributes.viewsWelcome.map((welcome) => welcome.when),
    ...contributes.walkthroughs.flatMap((walkthrough) => walkthrough.steps.flatMap((step) => step.completionEvents.map((event) => event.replace(/^onContext:/, '')))),
  ];
  const asked = new Set(clauses.flatMap((clause) => [...clause.matchAll(/\bmeshpath(?:\.\w+)+/g)].map((match) => match[0])).filter((key) => key !== VIEWS.nodes));
  assert.deepEqual([...asked].sort(), Object.keys(INITIAL_CONTEXT).sort());
});

test('actions of rows hang on kinds of rows that exist', () => {
  for (const { when = '' } of contributes.menus['view/item/context'] ?? []) {
    const exact = /viewItem == (\S+)/.exec(when)?.[1];
    const pattern = /viewItem =~ \/(.*)\//.exec(when)?.[1];
    const kinds = ROW_KINDS.filter((kind) => kind === exact || (pattern !== undefined && new RegExp(pattern).test(kind)));
    assert.ok(kinds.length > 0, when);
  }
});

test('views, settings, walkthrough and panels are those of the program', () => {
  assert.deepEqual(
    {
      container: contributes.viewsContainers.activitybar.map((container) => container.id),
      views: contributes.views[VIEW_CONTAINER]?.map((view) => view.id),
      settings: Object.fromEntries(Object.entries(contributes.configuration.properties).map(([name, property]) => [name.replace(/^meshpath\./, ''), property.default])),
      walkthroughs: contributes.walkthroughs.map(({ id, title }) => ({ id, title })),
      panels: manifest.activationEvents.filter((event) => event.startsWith('onWebviewPanel:')).sort(),
    },
    {
      container: [VIEW_CONTAINER],
      views: [VIEWS.nodes],
      settings: { ...SETTING_DEFAULTS },
      walkthroughs: [WALKTHROUGH],
      panels: Object.values(WEBVIEW_TYPES)
        .map((type) => `onWebviewPanel:${type}`)
        .sort(),
    },
  );
  assert.deepEqual(manifest.capabilities.untrustedWorkspaces.restrictedConfigurations, ['meshpath.node.path']);
});

test('every picture is there, and pictures of steps take their colours from the theme', () => {
  const steps = contributes.walkthroughs.flatMap((walkthrough) => walkthrough.steps);
  const pictures = [
    manifest.icon,
    ...contributes.viewsContainers.activitybar.map((container) => container.icon),
    ...contributes.walkthroughs.map((walkthrough) => walkthrough.icon),
    ...steps.map((step) => step.media.svg),
    ...Object.keys(WEBVIEW_TYPES).flatMap((page) => ['light', 'dark'].map((theme) => `media/panels/${page}-${theme}.svg`)),
  ];
  assert.deepEqual(
    pictures.filter((path) => !existsSync(join(root, path))),
    [],
  );
  for (const step of steps) {
    const picture = readFileSync(join(root, step.media.svg), 'utf8');
    assert.match(picture, /var\(--vscode-/, step.id);
    // The page of walkthroughs forbids styles inside of pictures.
    assert.doesNotMatch(picture, /<style|\bstyle=|\bclass=/, step.id);
    assert.ok(step.media.altText.length > 20, step.id);
  }
});
