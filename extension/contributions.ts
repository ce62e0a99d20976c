/**
 * Every id by which Meshpath is known to VS Code. package.json repeats them because VS Code reads them there; a test
 * holds the two together, so that no command, view, context key or setting can drift.
 */
export const COMMANDS = {
  connectToNode: 'meshpath.connectToNode',
  connectToThisMachine: 'meshpath.connectToThisMachine',
  connectToSimulatedNode: 'meshpath.connectToSimulatedNode',
  disconnectNode: 'meshpath.disconnectNode',
  reconnectNode: 'meshpath.reconnectNode',
  removeNode: 'meshpath.removeNode',
  refresh: 'meshpath.refresh',
  openMap: 'meshpath.openMap',
  explainConnection: 'meshpath.explainConnection',
  showConnections: 'meshpath.showConnections',
  turnAccelerationOn: 'meshpath.turnAccelerationOn',
  turnAccelerationOff: 'meshpath.turnAccelerationOff',
  upgradeAcceleration: 'meshpath.upgradeAcceleration',
  cleanUpNode: 'meshpath.cleanUpNode',
  bringLabUp: 'meshpath.bringLabUp',
  runTrafficInLab: 'meshpath.runTrafficInLab',
  takeLabDown: 'meshpath.takeLabDown',
  showEvents: 'meshpath.showEvents',
  runDoctor: 'meshpath.runDoctor',
  showLog: 'meshpath.showLog',
  openWalkthrough: 'meshpath.openWalkthrough',
  forgetHostKey: 'meshpath.forgetHostKey',
  saveSnapshot: 'meshpath.saveSnapshot',
  copyIdentifier: 'meshpath.copyIdentifier',
  showMoreRows: 'meshpath.showMoreRows',
} as const;
export type CommandId = (typeof COMMANDS)[keyof typeof COMMANDS];

export const VIEWS = { nodes: 'meshpath.nodes' } as const;
export const VIEW_CONTAINER = 'meshpath';
export const WALKTHROUGH = { id: 'followConnection', title: 'Follow a connection with Meshpath' } as const;

/** The context keys that `when` clauses may ask, with the type of each. */
export interface ContextKeys {
  /** How many nodes are connected. */
  'meshpath.connectedNodes': number;
  /** How many nodes the view shows, whatever their state. */
  'meshpath.knownNodes': number;
  /** Acceleration is on somewhere. */
  'meshpath.accelerated': boolean;
  /** Turned off and on when a walkthrough may have come up; see walkthroughTicks.ts. */
  'meshpath.walkthrough.shown': boolean;
  'meshpath.walkthrough.connected': boolean;
  'meshpath.walkthrough.inspected': boolean;
  'meshpath.walkthrough.accelerated': boolean;
  'meshpath.walkthrough.mapOpened': boolean;
  'meshpath.walkthrough.explained': boolean;
}
export type ContextKey = keyof ContextKeys;

/** What each key is before anything happened; also the list of all of them. */
export const INITIAL_CONTEXT: ContextKeys = {
  'meshpath.connectedNodes': 0,
  'meshpath.knownNodes': 0,
  'meshpath.accelerated': false,
  'meshpath.walkthrough.shown': false,
  'meshpath.walkthrough.connected': false,
  'meshpath.walkthrough.inspected': false,
  'meshpath.walkthrough.accelerated': false,
  'meshpath.walkthrough.mapOpened': false,
  'meshpath.walkthrough.explained': false,
};

/** The settings with their types, below the section `meshpath`. */
export interface Settings {
  connectSimulatedNodeOnStartup: boolean;
  'node.path': string;
}
export const SETTING_DEFAULTS: Settings = { connectSimulatedNodeOnStartup: false, 'node.path': '' };

/** The kinds of tree row that actions can hang on; `viewItem` in `when` clauses. */
export const ROW_KINDS = [
  'node.connected',
  'node.busy',
  'node.failed',
  'node.disconnected',
  'program',
  'map.readable',
  'map.opaque',
  'cgroup',
  'cgroup.accelerated',
  'link',
  'acceleration',
  'lab',
  'detail',
  'group',
  'more',
] as const;
export type RowKind = (typeof ROW_KINDS)[number];

export const WEBVIEW_TYPES = { map: 'meshpath.map', explain: 'meshpath.explain', connections: 'meshpath.connections' } as const;
