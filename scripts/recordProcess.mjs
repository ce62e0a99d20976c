import { appendFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

// Loaded into every test process: says in the run's temporary folder which processes are of this run, since tests put the id of
// their process into the names that they make.
appendFileSync(join(tmpdir(), 'processes'), `${String(process.pid)}\n`);
