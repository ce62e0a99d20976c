import { chooseKnownNode } from './choose.ts';
import type { Services } from './services.ts';

/** Connects a node again that is not connected. */
export async function reconnectNode(services: Services, argument: unknown): Promise<void> {
  const closed = services.directory.nodes.filter((known) => known.session.state.phase === 'closed' || known.session.state.phase === 'idle');
  const known = await chooseKnownNode(services, argument, closed, 'Connect which node again?');
  if (known !== undefined) {
    await services.connect(known);
  }
}
