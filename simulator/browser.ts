/** What a page gets that loads the simulator on its own: `dist/simulator.js`. */
export { connectInProcess } from '../agent/protocol/node.ts';
export { explain } from './explain/explain.ts';
export { createSimulatedNode } from './node.ts';
