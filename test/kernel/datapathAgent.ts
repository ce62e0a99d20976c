import { readFileSync } from 'node:fs';
import { createAccelerator } from '../../agent/accelerate/accelerator.ts';
import type { AccelerationRequest } from '../../agent/protocol/acceleration.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';

/** An agent to be killed: turns acceleration on as its parameter (an AccelerationRequest as JSON) says, and stays. */
const accelerator = createAccelerator({ object: readFileSync(prebuiltObject), notify: () => undefined });
const request = JSON.parse(process.argv[2] ?? '') as AccelerationRequest;
await accelerator.turnAccelerationOn(request, { signal: new AbortController().signal });
console.log('on');
setInterval(() => undefined, 60_000);
