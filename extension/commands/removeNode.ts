import { chooseKnownNode } from './choose.ts';
import type { Services } from './services.ts';

/** Takes a node that is not connected out of the view. */
export async function removeNode(services: Services, argument: unknown): Promise<void> {
  const closed = services.directory.nodes.filter((known) => known.session.state.phase === 'closed' || known.session.state.phase === 'idle');
  const known = await chooseKnownNode(services, argument, closed, 'Remove which node from the view?');
  if (known !== undefined) {
    await services.directory.remove(known.key);
  }
}
