import type { Services } from './services.ts';

/** Connects to the node that is simulated inside VS Code. */
export async function connectToSimulatedNode(services: Services): Promise<void> {
  const known = await services.directory.obtain({ kind: 'simulated' });
  await services.view.reveal();
  await services.connect(known);
}
