import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { dist } from '../../scripts/paths.mjs';
import { missingForBrowser } from '../requirements.ts';

/** Tells why a test of the built extension in a browser cannot run here; false if it can. */
export function missingForWorkbench(): string | false {
  const missing = ['extension.cjs', 'agent/manifest.json', 'simulator.js'].find((name) => !existsSync(join(dist, name)));
  return missing === undefined ? missingForBrowser() : `needs dist/${missing} (npm run build)`;
}
