import type { AccelerationInfo, AccelerationRequest, DecisionCounters, DecisionEvents, PodInfo, TurnOffReport } from './acceleration.ts';
import type { CleanReport } from './clean.ts';
import type { ConnectionList, ConnectionScope } from './connections.ts';
import type { DoctorReport } from './doctor.ts';
import type { WireError } from './errors.ts';
import type { CgroupInfo, LinkInfo, MapInfo, ProgramInfo } from './kernelObjects.ts';
import type { LabInfo, LabProgress, LabRequest, LabRunReport, LabRunRequest } from './lab.ts';
import type { MapPage } from './mapEntries.ts';
import type { CgroupPath, MapId } from './scalars.ts';
import type { NodeIdentity, Snapshot } from './snapshot.ts';

/** Raised by every change that an older client or agent would misunderstand. */
export const PROTOCOL_VERSION = 1;

/**
 * The first line that the agent writes, alone on its line, before the first frame. Whatever a login shell or a
 * message of the day printed before it is thrown away.
 */
export const AGENT_READY_LINE = 'meshpath-agent-ready';

/** The longest frame that either side takes, bytes. */
export const MAX_FRAME_BYTES = 64 * 1024 * 1024;

export interface InitializeParams {
  readonly protocolVersion: number;
  /** `meshpath-vscode 0.1.0`, for the log. */
  readonly client: string;
}

export interface NodeDescription {
  readonly protocolVersion: number;
  readonly agentVersion: string;
  readonly identity: NodeIdentity;
  /** Numeric user id that the agent runs as; null for a simulated node. */
  readonly uid: number | null;
  /** What this node lets the agent do. */
  readonly abilities: readonly Ability[];
}

/** Something that a node may or may not let the agent do; where not, the error says why and what to do. */
export interface Ability {
  readonly name: 'read-bpf' | 'read-network' | 'accelerate';
  readonly problem: WireError | null;
}

export interface MapEntriesParams {
  readonly mapId: MapId;
  /** From the page before; null for the first page. */
  readonly cursor: string | null;
  /** 1 to MAX_PAGE_ENTRIES. */
  readonly limit: number;
}

/** Every request that a node answers: its parameters and its result. */
export interface Methods {
  initialize: { params: InitializeParams; result: NodeDescription };
  listPrograms: { params: Record<string, never>; result: readonly ProgramInfo[] };
  listMaps: { params: Record<string, never>; result: readonly MapInfo[] };
  listLinks: { params: Record<string, never>; result: readonly LinkInfo[] };
  /** The cgroups at or below `below`; all of them where it is `/`. */
  listCgroups: { params: { readonly below: CgroupPath }; result: readonly CgroupInfo[] };
  listPods: { params: Record<string, never>; result: readonly PodInfo[] };
  readMap: { params: MapEntriesParams; result: MapPage };
  takeSnapshot: { params: Record<string, never>; result: Snapshot };
  runDoctor: { params: Record<string, never>; result: DoctorReport };
  /** Gives the part of the doctor's report that decides whether acceleration may be turned on. What this boot of the node has shown before is not tried again. */
  checkAcceleration: { params: Record<string, never>; result: DoctorReport };
  /** Turns acceleration on for these pods, as one step: where one fails, none is on. */
  turnAccelerationOn: { params: AccelerationRequest; result: AccelerationInfo };
  /** Turns it off for these cgroups; for all of them where `cgroups` is null. */
  turnAccelerationOff: { params: { readonly cgroups: readonly CgroupPath[] | null }; result: TurnOffReport };
  /**
   * Replaces the programs of a profile by those of this version, where they are of another: every connection meets the one or the
   * other, and those of before go on.
   */
  upgradeAcceleration: { params: { readonly profile: string }; result: AccelerationInfo };
  /**
   * Finds what is on the node of Meshpath's and stays without an agent: acceleration that is kept, what labs left, and files of agents
   * that do not run; removes it unless `isDryRun`. Established connections go on. What belongs to others, or to a living
   * process, is not touched.
   */
  cleanNode: { params: { readonly isDryRun: boolean }; result: CleanReport };
  listAccelerations: { params: Record<string, never>; result: readonly AccelerationInfo[] };
  countDecisions: { params: { readonly profile: string }; result: DecisionCounters };
  /** The TCP connections that are open, with whether each is accelerated and, if not, why not. */
  listConnections: { params: { readonly scope: ConnectionScope }; result: ConnectionList };
  /** Makes a lab, which stays until it is taken down; where a step fails or the call is cancelled, nothing of it is left. */
  bringLabUp: { params: LabRequest; result: LabInfo };
  /** Every lab of which anything is on the node. */
  listLabs: { params: Record<string, never>; result: readonly LabInfo[] };
  runInLab: { params: LabRunRequest; result: LabRunReport };
  /** Removes all of a lab, complete or not. */
  takeLabDown: { params: { readonly name: string }; result: Record<string, never> };
}

/** What a node tells unasked. */
export interface Notifications {
  /** Decisions of the programs, in batches. */
  decisions: DecisionEvents;
  /** Programs, maps, links or attachments of this agent changed: what was listed may be out of date. */
  changed: Record<string, never>;
  /** How far a lab that is being made is. */
  labProgress: LabProgress;
  /** Something that a person should know and that nobody asked for: what happened, why, and what to do. */
  notice: WireError;
}

export type MethodName = keyof Methods;
export type Params<M extends MethodName> = Methods[M]['params'];
export type Result<M extends MethodName> = Methods[M]['result'];
export type NotificationName = keyof Notifications;

/** All method names, for servers that must answer every one. */
export const METHOD_NAMES = [
  'initialize',
  'listPrograms',
  'listMaps',
  'listLinks',
  'listCgroups',
  'listPods',
  'readMap',
  'takeSnapshot',
  'runDoctor',
  'checkAcceleration',
  'turnAccelerationOn',
  'turnAccelerationOff',
  'upgradeAcceleration',
  'cleanNode',
  'listAccelerations',
  'countDecisions',
  'listConnections',
  'bringLabUp',
  'listLabs',
  'runInLab',
  'takeLabDown',
] as const satisfies readonly MethodName[];
