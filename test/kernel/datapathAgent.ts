import { readFileSync } from 'node:fs';
import { createAccelerator } from '../../agent/accelerate/accelerator.ts';
import type { AccelerationRequest } from '../../agent/protocol/acceleration.ts';
import { prebuiltObject } from '../../scripts/compileBpf.mjs';

/** An agent to be killed: turns acceleration on as its parameter (an AccelerationRequest as JSON) says, prints the answer, and stays. */
const accelerator = createAccelerator({ object: readFileSync(prebuiltObject), notify: () => undefined });
const request = JSON.parse(process.argv[2] ?? '') as AccelerationRequest;
console.log(JSON.stringify(await accelerator.turnAccelerationOn(request, { signal: new AbortController().signal })));
setInterval(() => undefined, 60_000);
