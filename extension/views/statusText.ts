import type { AccelerationInfo } from '../../agent/protocol/acceleration.ts';
import type { SessionState } from '../node/nodeSession.ts';

export interface NodeStatus {
  readonly label: string;
  readonly phase: SessionState['phase'];
  readonly accelerations: readonly AccelerationInfo[];
}

export interface StatusText {
  /** With codicons. */
  readonly text: string;
  readonly tooltip: string;
  /** Without codicons, for screen readers. */
  readonly spoken: string;
}

/** Gives what the status bar says of these nodes; undefined where it has nothing to say. */
export function describeStatus(nodes: readonly NodeStatus[]): StatusText | undefined {
  if (nodes.length === 0) {
    return undefined;
  }
  const ready = nodes.filter((node) => node.phase === 'ready');
  const connecting = nodes.some((node) => !['ready', 'closed', 'idle'].includes(node.phase));
  const pods = ready.reduce((sum, node) => sum + node.accelerations.reduce((more, item) => more + item.pods.length, 0), 0);
  const words = connecting
    ? 'connecting…'
    : ready.length === 0
      ? 'not connected'
      : `${ready.length === 1 ? '1 node' : `${ready.length} nodes`}${pods > 0 ? `, accelerating ${pods === 1 ? '1 pod' : `${pods} pods`}` : ''}`;
  const icon = connecting ? 'sync~spin' : ready.length === 0 ? 'debug-disconnect' : pods > 0 ? 'zap' : 'type-hierarchy';
  return {
    text: `$(${icon}) Meshpath: ${words}`,
    tooltip: nodes.map((node) => `${node.label}: ${describeNode(node)}`).join('\n'),
    spoken: `Meshpath: ${words}`,
  };
}

function describeNode(node: NodeStatus): string {
  if (node.phase !== 'ready') {
    return node.phase === 'closed' || node.phase === 'idle' ? 'not connected' : 'connecting';
  }
  const pods = node.accelerations.flatMap((item) => item.pods);
  return pods.length === 0 ? 'connected, acceleration off' : `connected, acceleration on for ${pods.map((pod) => pod.cgroup).join(', ')}`;
}
