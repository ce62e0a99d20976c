import { readFileSync } from 'node:fs';
import { createAccelerator } from '../../agent/accelerate/accelerator.ts';
import type { AccelerationRequest } from '../../agent/protocol/acceleration.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';

/**
 * An agent to be killed: turns acceleration on as its first parameter (an AccelerationRequest as JSON) says, or takes over what is kept
 * where that is `null`; prints what is on, and stays. The second parameter is the folder of what is kept, where it is not the usual one.
 */
const [, , request = '', keptFolder] = process.argv;
const context = { signal: new AbortController().signal };
const accelerator = createAccelerator({ object: readFileSync(prebuiltObject), notify: () => undefined, ...(keptFolder === undefined ? {} : { keptFolder }) });
const wanted = JSON.parse(request) as AccelerationRequest | null;
console.log(JSON.stringify(wanted === null ? (await accelerator.listAccelerations({}, context))[0] : await accelerator.turnAccelerationOn(wanted, context)));
setInterval(() => undefined, 60_000);
