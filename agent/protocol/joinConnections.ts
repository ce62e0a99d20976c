import { DECISION_HOOKS } from './acceleration.ts';
import type { DecisionReason } from './acceleration.ts';
import type { ConnectionEntry, ConnectionSide } from './connectionEntries.ts';
import { CONNECTION_TEXTS, MAX_LISTED_CONNECTIONS } from './connections.ts';
import type { ConnectionEnd, ConnectionInfo, ConnectionList, ConnectionReason, ConnectionScope, ConnectionVerdict, PassReason } from './connections.ts';
import type { DecisionRecord } from './decisionHistory.ts';
import { ipAddressBytes, isIpv4 } from './ipAddress.ts';
import type { CgroupPath, Endpoint, IpAddress, NamespaceId, Uint64Text } from './scalars.ts';
import type { Omission, SocketInfo } from './snapshot.ts';

/** A socket with where it is. */
export interface ListedSocket {
  readonly namespace: NamespaceId;
  readonly socket: SocketInfo;
  /** Bytes that it sent through TCP; null where they are not known. */
  readonly tcpBytes: Uint64Text | null;
}

/** A network namespace, as far as connections ask about it. */
export interface ListedNamespace {
  readonly id: NamespaceId;
  /** Null where it is no pod. */
  readonly pod: string | null;
  readonly addresses: readonly IpAddress[];
}

/** A cgroup that programs of Meshpath are attached to. */
export interface AcceleratedCgroup {
  readonly path: CgroupPath;
  /** Null where it is not known: another process turned it on. */
  readonly profile: string | null;
  /** Whether this very node was asked to turn it on, and so is told of decisions. */
  readonly isOwn: boolean;
}

/** What a list of connections is joined from. */
export interface ConnectionSources {
  readonly namespaces: readonly ListedNamespace[];
  /** TCP sockets: those that listen and those that are established. */
  readonly sockets: readonly ListedSocket[];
  readonly cgroups: readonly AcceleratedCgroup[];
  /** Entries of every map `connections` with the profile of each; null: not known. */
  readonly entries: readonly { readonly profile: string | null; readonly entry: ConnectionEntry }[];
  readonly decisions: DecisionRecord;
  readonly readAt: string;
  readonly omissions: readonly Omission[];
}

/**
 * Joins sockets, the map `connections` and remembered decisions into a list of connections: those of accelerated pods first, each
 * once. What cannot be told is `unknown` with its reason. Sockets are known by cookie; the two ends of a connection that the
 * programs did not touch are found by their addresses.
 */
export function joinConnections(sources: ConnectionSources, scope: ConnectionScope): ConnectionList {
  const connections = new ConnectionJoin(sources).list().filter(({ near, far }) => scope === 'all' || near.inAcceleratedPod || far?.inAcceleratedPod === true);
  const omitted = connections.length - MAX_LISTED_CONNECTIONS;
  const omissions: readonly Omission[] =
    omitted > 0
      ? [{ what: `${omitted} connections`, reason: `There are more than ${MAX_LISTED_CONNECTIONS}.`, remedy: 'Look at them with `ss` on the node.' }]
      : [];
  return {
    connections: connections.slice(0, MAX_LISTED_CONNECTIONS),
    readAt: sources.readAt,
    lostDecisions: sources.decisions.lost,
    omissions: [...sources.omissions, ...omissions],
  };
}

interface KnownEntry {
  readonly profile: string | null;
  readonly entry: ConnectionEntry;
}

type Role = ConnectionInfo['role'];

class ConnectionJoin {
  readonly #sources: ConnectionSources;
  readonly #namespaces: ReadonlyMap<NamespaceId, ListedNamespace>;
  readonly #nodeAddresses: ReadonlySet<IpAddress>;
  readonly #entries = new Map<Uint64Text, KnownEntry>();
  readonly #byCookie = new Map<Uint64Text, ListedSocket>();
  /** Established sockets by their own ends, and by their local end alone. */
  readonly #byEnds = new Map<string, ListedSocket[]>();
  readonly #byLocal = new Map<string, ListedSocket[]>();
  readonly #listeners = new Set<string>();
  readonly #taken = new Set<ListedSocket>();

  constructor(sources: ConnectionSources) {
    this.#sources = sources;
    this.#namespaces = new Map(sources.namespaces.map((namespace) => [namespace.id, namespace]));
    this.#nodeAddresses = new Set(sources.namespaces.flatMap(({ addresses }) => addresses));
    for (const known of sources.entries) {
      for (const { cookie } of [known.entry.connecting, known.entry.accepting]) {
        if (cookie !== '0') {
          this.#entries.set(cookie, known);
        }
      }
    }
    for (const listed of sources.sockets) {
      const { socket, namespace } = listed;
      if (socket.state === 'listen') {
        this.#listeners.add(`${namespace} ${socket.local.port}`);
      } else if (socket.state === 'established') {
        const place = isLoopback(socket.local.address) ? namespace : '';
        push(this.#byEnds, endsKey(place, socket.local, socket.remote), listed);
        push(this.#byLocal, `${place} ${writeEnd(socket.local)}`, listed);
        if (socket.cookie !== null) {
          this.#byCookie.set(socket.cookie, listed);
        }
      }
    }
  }

  list(): ConnectionInfo[] {
    const open = this.#sources.sockets.filter(({ socket }) => socket.state === 'established');
    // What the programs know for certain takes its sockets first, then ends of known roles, then all else.
    const known = this.#sources.entries.flatMap((entry) => this.#joinEntry(entry) ?? []);
    const connecting = open.filter((listed) => this.#roleOf(listed) === 'connecting').flatMap((listed) => this.#joinSocket(listed, 'connecting') ?? []);
    const others = open.flatMap((listed) => this.#joinSocket(listed, this.#roleOf(listed)) ?? []);
    const isOfPod = ({ near, far }: ConnectionInfo): boolean => near.inAcceleratedPod || far?.inAcceleratedPod === true;
    const all = [...known, ...connecting, ...others];
    return [...all.filter(isOfPod), ...all.filter((connection) => !isOfPod(connection))];
  }

  /** A connection that the programs wrote down; undefined where none of its sockets is open any more. */
  #joinEntry({ profile, entry }: KnownEntry): ConnectionInfo | undefined {
    const connecting = this.#byCookie.get(entry.connecting.cookie);
    const accepting = this.#byCookie.get(entry.accepting.cookie);
    const [near, far] = connecting === undefined ? [accepting, undefined] : [connecting, accepting];
    if (near === undefined) {
      return undefined;
    }
    this.#taken.add(near);
    if (far !== undefined) {
      this.#taken.add(far);
    }
    const nearSide = connecting === undefined ? entry.accepting : entry.connecting;
    return {
      id: idOf(near),
      near: this.#describe(near, nearSide),
      far: far === undefined ? null : this.#describe(far, entry.accepting),
      role: connecting === undefined ? 'accepting' : 'connecting',
      original: entry.original,
      profile,
      openedBootNanoseconds: entry.openedBootNanoseconds,
      verdict: this.#judgeEntry(entry),
    };
  }

  #joinSocket(near: ListedSocket, role: Role): ConnectionInfo | undefined {
    if (this.#taken.has(near)) {
      return undefined;
    }
    this.#taken.add(near);
    const other = this.#findOtherEnd(near);
    if (other !== undefined) {
      this.#taken.add(other);
    }
    // Where the role of one end is not known, that of the other tells it.
    const nearRole = role === 'unknown' && other !== undefined ? opposite(this.#roleOf(other)) : role;
    const [first, second] = nearRole === 'accepting' && other !== undefined ? [other, near] : [near, other];
    const firstRole = first === near ? nearRole : 'connecting';
    return {
      id: idOf(first),
      near: this.#describe(first, null),
      far: second === undefined ? null : this.#describe(second, null),
      role: firstRole,
      original: null,
      profile: this.#acceleratedCgroup(first)?.profile ?? (second === undefined ? null : (this.#acceleratedCgroup(second)?.profile ?? null)),
      openedBootNanoseconds: null,
      verdict: this.#judge(first, second, firstRole),
    };
  }

  /** Says which end a socket is: by a decision about its connect(2), or because something listens at its port. */
  #roleOf({ socket, namespace }: ListedSocket): Role {
    if (socket.cookie !== null && this.#sources.decisions.find(socket.cookie) !== undefined) {
      return 'connecting';
    }
    if (this.#listeners.has(`${namespace} ${socket.local.port}`)) {
      return 'accepting';
    }
    return this.#listeners.has(`${namespace} ${socket.remote.port}`) && isLoopback(socket.remote.address) ? 'connecting' : 'unknown';
  }

  /** The socket with the same ends the other way round; else, behind NAT, the only one that is connected from or to this very end. */
  #findOtherEnd(near: ListedSocket): ListedSocket | undefined {
    const { socket, namespace } = near;
    const free = (found: readonly ListedSocket[] | undefined): ListedSocket | undefined => {
      const candidates = found?.filter((candidate) => candidate !== near && !this.#taken.has(candidate)) ?? [];
      return candidates.length === 1 ? candidates[0] : undefined;
    };
    const place = isLoopback(socket.remote.address) ? namespace : '';
    return free(this.#byEnds.get(endsKey(place, socket.remote, socket.local))) ?? (this.#roleOf(near) === 'accepting' ? free(this.#byLocal.get(`${place} ${writeEnd(socket.remote)}`)) : undefined);
  }

  #describe({ namespace, socket, tcpBytes }: ListedSocket, side: ConnectionSide | null): ConnectionEnd {
    const { owner } = socket;
    return {
      namespace,
      pod: this.#namespaces.get(namespace)?.pod ?? null,
      cgroup: owner?.cgroup ?? null,
      inAcceleratedPod: this.#acceleratedCgroup({ namespace, socket, tcpBytes }) !== undefined,
      local: socket.local,
      remote: socket.remote,
      uid: socket.uid,
      process: owner === null ? null : { pid: owner.pid, command: owner.command },
      cookie: socket.cookie,
      redirectedBytes: side?.redirectedBytes ?? null,
      tcpBytes,
    };
  }

  #acceleratedCgroup({ socket }: ListedSocket): AcceleratedCgroup | undefined {
    const path = socket.owner?.cgroup;
    return path === null || path === undefined ? undefined : this.#sources.cgroups.find((cgroup) => path === cgroup.path || path.startsWith(`${cgroup.path}/`));
  }

  #judgeEntry(entry: ConnectionEntry): ConnectionVerdict {
    const { connecting, accepting } = entry;
    const passing = [connecting, accepting].map(({ messages }) => (messages !== null && messages !== 'message_redirected' ? asPassReason(messages) : null));
    const [fromConnecting = null, fromAccepting = null] = passing;
    if (fromConnecting !== null && fromAccepting !== null) {
      return verdict('not', fromConnecting);
    }
    const reason = fromConnecting ?? fromAccepting;
    if (entry.isSwitchedOff) {
      return verdict('not', 'message_passed_switched_off');
    }
    if (!connecting.isEnrolled || !accepting.isEnrolled) {
      return verdict('not', reason ?? this.#whyNotEnrolled(entry));
    }
    if (reason !== null) {
      const side = fromConnecting === null ? 'accepting' : 'connecting';
      return { state: 'partly', reason, text: `What the ${side} end sends goes through TCP, the other direction is redirected. ${CONNECTION_TEXTS[reason]}` };
    }
    const isSilent = connecting.messages === null && accepting.messages === null;
    return {
      state: 'accelerated',
      reason: null,
      text: isSilent ? 'Both ends are in the sockhash; no message was sent yet.' : 'Messages go from socket to socket, past TCP and every rule.',
    };
  }

  #whyNotEnrolled(entry: ConnectionEntry): ConnectionReason {
    const told = [entry.connecting, entry.accepting].flatMap(({ cookie }) => this.#sources.decisions.find(cookie)?.reason ?? []);
    if (told[0] !== undefined) {
      return told[0];
    }
    if (entry.accepting.cookie !== '0') {
      return 'not_enrolled_yet';
    }
    const connecting = this.#byCookie.get(entry.connecting.cookie);
    const other = connecting === undefined ? undefined : this.#findOtherEnd(connecting);
    return other !== undefined && this.#acceleratedCgroup(other) === undefined ? 'accepting_side_not_enrolled' : 'not_enrolled_yet';
  }

  /** A connection that is in no map. */
  #judge(near: ListedSocket, far: ListedSocket | undefined, role: Role): ConnectionVerdict {
    const { decisions, cgroups } = this.#sources;
    const nearCgroup = this.#acceleratedCgroup(near);
    const farCgroup = far === undefined ? undefined : this.#acceleratedCgroup(far);
    if (nearCgroup === undefined && farCgroup === undefined) {
      const isUnseen = near.socket.owner?.cgroup === undefined || near.socket.owner.cgroup === null;
      return isUnseen && cgroups.length > 0 ? verdict('unknown', 'decision_not_seen') : verdict('not', 'no_pod');
    }
    const cookies = [near, far].flatMap((listed) => listed?.socket.cookie ?? []);
    const told = cookies.map((cookie) => decisions.find(cookie)).find((decision) => decision?.reason !== null && decision !== undefined);
    if (told?.reason !== null && told !== undefined) {
      const text = told.errno === 0 ? CONNECTION_TEXTS[told.reason] : `${CONNECTION_TEXTS[told.reason]} (errno ${told.errno})`;
      return { state: 'not', reason: told.reason, text };
    }
    if (cookies.some((cookie) => decisions.wasOpenBefore(cookie) && decisions.find(cookie) === undefined)) {
      return verdict('not', 'opened_before');
    }
    if (role === 'accepting' && far === undefined && !this.#isOfNode(near.socket.remote.address)) {
      return verdict('not', 'other_node');
    }
    if (role === 'connecting' && far !== undefined && nearCgroup === undefined && near.socket.owner?.cgroup !== null && near.socket.owner !== null) {
      return verdict('not', 'connecting_side_not_enrolled');
    }
    if (!isIpv4(near.socket.remote.address) && !(DECISION_HOOKS as readonly string[]).includes('connect6')) {
      return verdict('not', 'address_family');
    }
    if ((nearCgroup ?? farCgroup)?.isOwn === false) {
      return verdict('unknown', 'decided_elsewhere');
    }
    return verdict('unknown', decisions.lost > 0 ? 'decision_lost' : 'decision_not_seen');
  }

  #isOfNode(address: IpAddress): boolean {
    return isLoopback(address) || this.#nodeAddresses.has(address);
  }
}

function verdict(state: ConnectionVerdict['state'], reason: ConnectionReason): ConnectionVerdict {
  return { state, reason, text: CONNECTION_TEXTS[reason] };
}

/** Messages are redirected or passed, for one of these reasons. */
function asPassReason(reason: DecisionReason): PassReason | null {
  return Object.hasOwn(CONNECTION_TEXTS, reason) ? (reason as PassReason) : null;
}

function opposite(role: Role): Role {
  switch (role) {
    case 'connecting':
      return 'accepting';
    case 'accepting':
      return 'connecting';
    case 'unknown':
      return 'unknown';
  }
}

function idOf({ namespace, socket }: ListedSocket): string {
  return socket.cookie ?? `${namespace} ${writeEnd(socket.local)} ${writeEnd(socket.remote)}`;
}

function isLoopback(address: IpAddress): boolean {
  return isIpv4(address) ? ipAddressBytes(address)[0] === 127 : address === '::1';
}

function writeEnd({ address, port }: Endpoint): string {
  return `${address} ${port}`;
}

function endsKey(place: string, local: Endpoint, remote: Endpoint): string {
  return `${place} ${writeEnd(local)} ${writeEnd(remote)}`;
}

function push<Key, Value>(map: Map<Key, Value[]>, key: Key, value: Value): void {
  const list = map.get(key);
  if (list === undefined) {
    map.set(key, [value]);
  } else {
    list.push(value);
  }
}
