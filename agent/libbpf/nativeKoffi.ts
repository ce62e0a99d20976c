import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type * as koffi from 'koffi';
import { MeshpathError } from '../protocol/errors.ts';

export type Koffi = typeof koffi;

/**
 * The folder of this module, or of the bundle that it became part of: a CommonJS bundle has `__dirname`, the sources
 * (ES modules) have `import.meta.dirname`.
 */
const folder = typeof __dirname === 'string' ? __dirname : import.meta.dirname;

/**
 * Where koffi's native module is beside a deployed bundle, in the order in which they are tried: the one for another C
 * library fails to open and the next one is taken. The build puts them into the agent's folder, which the command
 * line's bundle has beside it. koffi's own JavaScript only looks in places that a bundle does not have, and adds
 * nothing that is used here, so it is not part of the bundle.
 */
function deployedPaths(): readonly string[] {
  const platform = `${process.platform}-${process.arch}`;
  return [folder, join(folder, 'agent')].flatMap((place) => [
    join(place, `koffi-${platform}-glibc.node`),
    join(place, `koffi-${platform}-musl.node`),
  ]);
}

/**
 * Loads koffi: the native module beside the bundle where there is one, else the npm package.
 * Throws AGENT_PLATFORM_UNSUPPORTED where neither can be loaded.
 */
export function loadKoffi(): Koffi {
  const deployed = deployedPaths().filter((path) => existsSync(path));
  const load = createRequire(join(folder, 'package.json'));
  let failure: unknown;
  for (const name of deployed.length > 0 ? deployed : ['koffi']) {
    try {
      return load(name) as Koffi;
    } catch (error) {
      failure ??= error;
    }
  }
  throw new MeshpathError(
    {
      code: 'AGENT_PLATFORM_UNSUPPORTED',
      message: 'The foreign function interface that calls libbpf could not be loaded.',
      reason: `${process.platform}-${process.arch}, Node.js ${process.version}: ${failure instanceof Error ? failure.message : String(failure)}`,
      remedy: 'Use a node with Linux on x86-64 or arm64 and Node.js 20 or newer, or install Meshpath again if files are missing.',
    },
    { cause: failure },
  );
}
