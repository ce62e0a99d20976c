import type { Services } from './services.ts';

/** Shows the decisions of the programs as they come. */
export function showEvents(services: Services): Promise<void> {
  services.events.show(true);
  return Promise.resolve();
}
