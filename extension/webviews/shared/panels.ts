import type { DecisionReason } from '../../../agent/protocol/acceleration.ts';
import type { ConnectionList } from '../../../agent/protocol/connections.ts';
import type { MapInfo } from '../../../agent/protocol/kernelObjects.ts';
import type { MapPage } from '../../../agent/protocol/mapEntries.ts';
import type { Explanation } from '../../../agent/protocol/trace.ts';

/** What the map panel asks of its host. */
export interface MapPanelContract {
  readonly requests: {
    /** Who it shows; asked first. */
    open: { params: null; result: MapPanelSubject };
    readPage: { params: { readonly cursor: string | null; readonly limit: number }; result: MapPage };
    copy: { params: { readonly text: string }; result: null };
    /** Connects the node again, where it is not connected. */
    reconnect: { params: null; result: null };
  };
  readonly events: {
    /** The node is connected (again), or what the map holds may have changed: ask again. */
    changed: null;
  };
}

export interface MapPanelSubject {
  /** The key of the node. */
  readonly node: string;
  readonly nodeLabel: string;
  readonly map: MapInfo;
}

/** What the panel keeps over a reload: where it was, never what it showed. */
export interface MapPanelState {
  readonly node: string;
  readonly mapId: number;
  readonly mapName: string;
  readonly filter: string;
  readonly raw: boolean;
}

export interface ConnectionPanelContent {
  /** The key of the node. */
  readonly node: string;
  readonly nodeLabel: string;
  readonly list: ConnectionList;
  /** How often each decision was taken since acceleration is on; those that never were are left out. */
  readonly counters: readonly { readonly reason: DecisionReason; readonly count: string }[];
}

/** What the panel of connections asks of its host. */
export interface ConnectionPanelContract {
  readonly requests: {
    /** Those of accelerated pods, or all. */
    read: { params: { readonly all: boolean }; result: ConnectionPanelContent };
    /** Opens the explanation of a connection. */
    explain: { params: { readonly id: string }; result: null };
    copy: { params: { readonly text: string }; result: null };
    reconnect: { params: null; result: null };
  };
  readonly events: {
    changed: null;
  };
}

export interface ConnectionPanelState {
  readonly node: string;
  readonly filter: string;
  readonly all: boolean;
}

/** One end that a connection can start from. */
export interface SourceChoice {
  readonly id: string;
  readonly label: string;
  readonly detail: string;
}

/** A flow as a person writes it. */
export interface FlowChoice {
  /** The id of a SourceChoice. */
  readonly source: string;
  /** `10.0.0.2:8080` */
  readonly destination: string;
}

export interface ExplainPanelContent {
  /** The key of the node. */
  readonly node: string;
  readonly nodeLabel: string;
  readonly takenAt: string;
  readonly choice: FlowChoice;
  readonly sources: readonly SourceChoice[];
  /** Destinations worth offering; any other can be written. */
  readonly destinations: readonly { readonly value: string; readonly label: string }[];
  readonly explanation: Explanation;
  /** Names of the network namespaces that the explanation speaks of, by id. */
  readonly namespaceNames: Readonly<Record<string, string>>;
}

export interface ExplainPanelContract {
  readonly requests: {
    open: { params: null; result: ExplainPanelContent };
    /** Explains this flow on a snapshot taken now. */
    explain: { params: FlowChoice; result: ExplainPanelContent };
    reconnect: { params: null; result: null };
  };
  readonly events: {
    changed: null;
  };
}

export interface ExplainPanelState {
  readonly node: string;
  readonly choice: FlowChoice;
  readonly changesOnly: boolean;
}
