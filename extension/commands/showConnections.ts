import { chooseReadyNode } from './choose.ts';
import type { Services } from './services.ts';

/** Shows the connections of a node with whether each is accelerated, and if not, why not. */
export async function showConnections(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen !== undefined) {
    services.connections.open(chosen.known.key);
  }
}
