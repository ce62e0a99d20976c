import type { Services } from './services.ts';

/** Shows the log of Meshpath. */
export function showLog(services: Services): Promise<void> {
  services.log.show(true);
  return Promise.resolve();
}
