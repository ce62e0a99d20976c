import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { Services } from './services.ts';

/** Connects to the machine that VS Code (or its server) runs on; Linux only. */
export async function connectToThisMachine(services: Services): Promise<void> {
  if (process.platform !== 'linux') {
    throw new MeshpathError({
      code: 'NOT_SUPPORTED',
      message: 'This machine does not run Linux.',
      reason: 'Meshpath reads eBPF and netfilter, which only Linux has.',
      remedy: 'Connect to a Linux machine over SSH, or to the simulated node.',
    });
  }
  const known = await services.directory.obtain({ kind: 'thisMachine' });
  await services.view.reveal();
  await services.connect(known);
}
