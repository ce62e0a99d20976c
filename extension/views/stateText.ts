import type { SessionState } from '../node/nodeSession.ts';

/** Gives what the log says when a session comes into this state, line by line. */
export function spellState(state: SessionState): readonly string[] {
  switch (state.phase) {
    case 'idle':
      return [];
    case 'ready': {
      const { identity, agentVersion, uid, abilities } = state.description;
      return [
        `connected to ${identity.hostname}, kernel ${identity.kernelRelease}, agent ${agentVersion}${uid === null ? '' : ` as user ${uid}`}`,
        ...abilities.flatMap((ability) => (ability.problem === null ? [] : [`${ability.name}: ${ability.problem.message} ${ability.problem.remedy}`])),
      ];
    }
    case 'closed':
      return [state.error === null ? 'disconnected' : `ended: ${state.error.message}`];
    default:
      return [state.message];
  }
}
