import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the project. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The folder of everything built. */
export const dist = join(root, 'dist');

/** The folder of what test and bench runs leave to look at: pictures, logs, figures. */
export const artifacts = join(root, 'artifacts');

/** The folder, outside the tree, of what is downloaded once: $MESHPATH_CACHE, else `meshpath-dev` in the user's cache folder. */
export const cache =
  process.env['MESHPATH_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'meshpath-dev');
