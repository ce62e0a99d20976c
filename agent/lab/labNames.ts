import { join } from 'node:path';
import { inputError } from '../protocol/errors.ts';

/** What every name that a lab makes on the machine begins with. */
export const LAB_PREFIX = 'meshpath-lab-';

/** Where labs are written down. It is gone after a restart of the machine, as everything of a lab is. */
export const LABS_FOLDER = '/run/meshpath/labs';

/** Named network namespaces (ip-netns(8)). */
export const NAMESPACES_FOLDER = '/run/netns';

const NAME = /^[a-z0-9][a-z0-9-]{0,31}$/;
/** No name of a lab has it, so that one lab's names never begin with another's. */
const SEPARATOR = '.';

/** Gives `name` where a lab can have it; throws INPUT_INVALID. */
export function checkLabName(name: string): string {
  if (!NAME.test(name)) {
    throw inputError(
      'A lab cannot have this name.',
      `${JSON.stringify(name.slice(0, 60))} is not 1 to 32 lower-case letters, digits and hyphens.`,
      'Give a name such as lab-1.',
    );
  }
  return name;
}

/** Gives what is in the name of everything that this lab makes: `meshpath-lab-<name>`. */
export function labId(name: string): string {
  return `${LAB_PREFIX}${checkLabName(name)}`;
}

/** Gives the name of a namespace of a lab under /run/netns; `part` is a pod, or `router`. */
export function namespaceNameOf(id: string, part: string): string {
  return `${id}${SEPARATOR}${part}`;
}

/** Gives the id of the lab that a network namespace is named after; undefined for all others. */
export function labIdOfNamespace(namespaceName: string): string | undefined {
  const end = namespaceName.indexOf(SEPARATOR);
  return end > 0 && namespaceName.startsWith(LAB_PREFIX) ? namespaceName.slice(0, end) : undefined;
}

/** Gives the folder in which a lab is written down. */
export function labFolder(id: string): string {
  return join(LABS_FOLDER, id.slice(LAB_PREFIX.length));
}

/** Gives the name of the pod at a place: `pod-a`, `pod-b`. */
export function podName(index: number): string {
  return `pod-${String.fromCharCode('a'.charCodeAt(0) + index)}`;
}

/** What a program of a lab has in the lab's folder: where it is asked, what it says, what it was configured with. */
export type ProgramFileKind = 'sock' | 'log' | 'conf';

/** Gives a file of a program in the folder of its lab. */
export function programFile(folder: string, pod: string, role: string, kind: ProgramFileKind): string {
  return join(folder, `${pod}-${role}.${kind}`);
}
