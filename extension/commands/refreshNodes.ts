import { subjectOf } from './choose.ts';
import type { Services } from './services.ts';

/** Reads again what is on a node, or on all of them. */
export function refreshNodes(services: Services, argument: unknown): Promise<void> {
  services.directory.refresh(subjectOf(argument)?.node);
  return Promise.resolve();
}
