import type { AccelerationInfo } from '../../agent/protocol/acceleration.ts';
import type { Snapshot } from '../../agent/protocol/snapshot.ts';
import type { Explanation, Flow } from '../../agent/protocol/trace.ts';
import { buildWorld } from '../world/world.ts';
import { isAtOrBelow } from './acceleratedPods.ts';
import { describeDifferences } from './differences.ts';
import { explainIptables } from './iptablesPath.ts';
import { explainSockops } from './sockopsPath.ts';

export interface ExplainOptions {
  /** Meshpath's compiled programs (an ELF file), which are run. */
  readonly object: Uint8Array;
}

/**
 * Explains one connection on both paths: by the rules of the snapshot alone, and with Meshpath's programs in front of
 * them; and says which of the two is in force for the process that connects, and what differs. Deterministic. Throws
 * INPUT_INVALID for a flow that is not of this snapshot, BPF_OBJECT_INVALID for another object.
 */
export function explain(snapshot: Snapshot, flow: Flow, options: ExplainOptions): Explanation {
  const world = buildWorld(snapshot);
  const iptables = explainIptables(world, flow);
  const sockops = explainSockops(world, flow, options.object);
  const current = snapshot.accelerations.some((acceleration) => covers(acceleration, snapshot, flow)) ? 'sockops' : 'iptables';
  return { flow, iptables, sockops, current, differences: describeDifferences(iptables, sockops) };
}

/** Whether an acceleration runs for the process of a flow: by its cgroup, or where that is not known by its pod's addresses. */
function covers(acceleration: AccelerationInfo, snapshot: Snapshot, { source }: Flow): boolean {
  const { cgroup } = source;
  if (cgroup !== null) {
    return acceleration.pods.some((pod) => isAtOrBelow(cgroup, pod.cgroup));
  }
  const addresses = snapshot.pods.find((pod) => pod.namespace === source.namespace)?.addresses ?? [];
  return acceleration.pods.some((pod) => pod.addresses.some((address) => addresses.includes(address)));
}
