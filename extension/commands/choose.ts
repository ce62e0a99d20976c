import * as vscode from 'vscode';
import type { Node } from '../../agent/protocol/node.ts';
import { ROW_KINDS } from '../contributions.ts';
import { readyNode, type KnownNode } from '../views/nodeDirectory.ts';
import type { RowSubject } from '../views/nodeTree.ts';
import type { Services } from './services.ts';

/** Gives what a row of the tree stands for, where a command was called on one. */
export function subjectOf(argument: unknown): RowSubject | undefined {
  if (typeof argument !== 'object' || argument === null || !('kind' in argument) || !('subject' in argument)) {
    return undefined;
  }
  return (ROW_KINDS as readonly unknown[]).includes(argument.kind) ? (argument.subject as RowSubject) : undefined;
}

/** A node that is connected. */
export interface ReadyNode {
  readonly known: KnownNode;
  readonly node: Node;
}

/** Gives the connected node of the row, else the only one, else asks; offers to connect where none is. Undefined: dismissed. */
export async function chooseReadyNode(services: Services, argument: unknown): Promise<ReadyNode | undefined> {
  const subject = subjectOf(argument);
  const named = subject === undefined ? undefined : services.directory.find(subject.node);
  if (named !== undefined) {
    return { known: named, node: readyNode(named.session.state) ?? (await services.connect(named)) };
  }
  const ready = services.directory.nodes.flatMap((known) => {
    const node = readyNode(known.session.state);
    return node === undefined ? [] : [{ known, node }];
  });
  if (ready.length <= 1) {
    return ready[0] ?? connectSomewhere(services);
  }
  const picked = await vscode.window.showQuickPick(
    ready.map((item) => ({ label: item.known.session.label, item })),
    { title: 'Meshpath', placeHolder: 'Which node?' },
  );
  return picked?.item;
}

async function connectSomewhere(services: Services): Promise<ReadyNode | undefined> {
  const choices = [
    { label: '$(beaker) Simulated node', detail: 'Two pods with sidecars inside VS Code: needs no Linux machine', target: { kind: 'simulated' } as const },
    ...(process.platform === 'linux' ? [{ label: '$(device-desktop) This machine', target: { kind: 'thisMachine' } as const }] : []),
    ...(await services.listConfiguredHosts()).map((host) => ({ label: `$(server) ${host}`, target: { kind: 'ssh', host } as const })),
  ];
  const picked = await vscode.window.showQuickPick(choices, { title: 'No node is connected', placeHolder: 'Which node do you want to connect to?' });
  if (picked === undefined) {
    return undefined;
  }
  const known = await services.directory.obtain(picked.target);
  return { known, node: await services.connect(known) };
}

/** Gives the node of the row, else asks which of `candidates`; undefined: dismissed or none. */
export async function chooseKnownNode(services: Services, argument: unknown, candidates: readonly KnownNode[], question: string): Promise<KnownNode | undefined> {
  const subject = subjectOf(argument);
  if (subject !== undefined) {
    return services.directory.find(subject.node);
  }
  if (candidates.length <= 1) {
    return candidates[0];
  }
  const picked = await vscode.window.showQuickPick(
    candidates.map((known) => ({ label: known.session.label, known })),
    { title: 'Meshpath', placeHolder: question },
  );
  return picked?.known;
}
