import * as vscode from 'vscode';
import type { RowSubject } from '../views/nodeTree.ts';
import { subjectOf } from './choose.ts';
import type { Services } from './services.ts';

/** Copies what names the thing of a row: the id of a program, map or link, the path of a cgroup. */
export async function copyIdentifier(_services: Services, argument: unknown): Promise<void> {
  const subject = subjectOf(argument);
  const text = subject === undefined ? undefined : identifierOf(subject);
  if (text !== undefined) {
    await vscode.env.clipboard.writeText(text);
  }
}

function identifierOf(subject: RowSubject): string | undefined {
  switch (subject.type) {
    case 'map':
      return String(subject.map.id);
    case 'program':
      return String(subject.program.id);
    case 'link':
      return String(subject.link.id);
    case 'cgroup':
      return subject.path;
    case 'acceleration':
      return subject.cgroup;
    case 'lab':
      return subject.name;
    case 'node':
    case 'more':
    case 'text':
      return undefined;
  }
}
