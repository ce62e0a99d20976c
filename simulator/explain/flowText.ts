import type { MeshpathError } from '../../agent/protocol/errors.ts';
import { inputError } from '../../agent/protocol/errors.ts';
import { parseIpAddress, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { MESH_PROFILES } from '../../agent/protocol/acceleration.ts';
import type { CgroupPath, Endpoint, IpAddress, NamespaceId, PortNumber } from '../../agent/protocol/scalars.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import type { Snapshot, SocketInfo } from '../../agent/protocol/snapshot.ts';
import type { Flow } from '../../agent/protocol/trace.ts';

const MAX_TEXT = 1_000;
const GRAMMAR = 'POD[/CONTAINER] -> ADDRESS:PORT [uid N] [gid N] [from ADDRESS[:PORT]]';

/**
 * Reads a connection as people write it, against a snapshot:
 *
 *     flow        = place "->" target { "uid" N | "gid" N | "from" ADDRESS [ ":" PORT ] }
 *     place       = POD [ "/" CONTAINER ]
 *     target      = ( ADDRESS | POD | "localhost" ) ":" PORT
 *
 * POD is the name of a pod or of a network namespace (`host`), or its number; CONTAINER the last folder of a cgroup of
 * that pod. Without `uid`, the process runs as the one user who owns the sockets of that place, leaving out the mesh's
 * sidecar where no container is named; where there is none or more than one, `uid` must be given. Without `gid` it is
 * the group of those sockets, else the number of the user. Examples: `pod-a -> pod-b:8080`,
 * `pod-a/istio-proxy -> 10.244.1.3:8080 uid 1337`. Throws INPUT_INVALID.
 */
export function parseFlowText(snapshot: Snapshot, text: string): Flow {
  if (text.length > MAX_TEXT) {
    throw wrong('It is too long to be a connection.', `It has ${text.length} characters.`);
  }
  const match = /^\s*(\S+?)\s*(?:->|→)\s*(\S+)((?:\s+\S+\s+\S+)*)\s*$/u.exec(text);
  if (match === null) {
    throw wrong(`'${text.trim()}' is not a connection.`, 'It is not of the form that is understood.');
  }
  const [, placeText = '', targetText = '', optionText = ''] = match;
  const place = findPlace(snapshot, placeText);
  const options = readOptions(optionText);
  const owner = findOwner(snapshot, place, options.uid, placeText);
  return {
    protocol: 'tcp',
    source: {
      kind: 'process', namespace: place.namespace, cgroup: place.cgroup, uid: owner.uid, gid: options.gid ?? owner.gid,
      address: options.address, port: options.port,
    },
    destination: readTarget(snapshot, targetText),
  };
}

interface FlowPlace {
  readonly namespace: NamespaceId;
  readonly cgroup: CgroupPath | null;
  /** Whether one container is meant, or whatever runs in the pod. */
  readonly container: boolean;
}

interface FlowOptions {
  uid: number | null;
  gid: number | null;
  address: IpAddress | null;
  port: PortNumber | null;
}

function findPlace(snapshot: Snapshot, text: string): FlowPlace {
  const slash = text.indexOf('/');
  const name = slash < 0 ? text : text.slice(0, slash);
  const container = slash < 0 ? null : text.slice(slash + 1);
  const namespace = findNamespace(snapshot, name);
  if (namespace === undefined) {
    throw wrong(`There is no pod or network namespace '${name}'.`, `The node has ${listNames(snapshot)}.`);
  }
  const folders = snapshot.pods.find((pod) => pod.namespace === namespace)?.cgroups ?? [];
  if (container === null) {
    return { namespace, cgroup: folders[0] ?? null, container: false };
  }
  const below = snapshot.cgroups.map((cgroup) => cgroup.path).filter((path) => folders.some((folder) => path === folder || path.startsWith(`${folder}/`)));
  const cgroup = below.find((path) => path.split('/').at(-1) === container);
  if (cgroup === undefined) {
    const names = below.map((path) => path.split('/').at(-1) ?? '').slice(0, 20);
    throw wrong(`The pod '${name}' has no container '${container}'.`, names.length === 0 ? 'It has no cgroups.' : `Its cgroups are ${names.join(', ')}.`);
  }
  return { namespace, cgroup, container: true };
}

function findNamespace(snapshot: Snapshot, name: string): NamespaceId | undefined {
  return snapshot.pods.find((pod) => pod.name === name)?.namespace ?? snapshot.namespaces.find((namespace) => namespace.names.includes(name) || namespace.id === name)?.id;
}

function readOptions(text: string): FlowOptions {
  const options: FlowOptions = { uid: null, gid: null, address: null, port: null };
  const words = text.split(/\s+/u).filter((word) => word !== '');
  for (let index = 0; index + 1 < words.length; index += 2) {
    const name = words[index] ?? '';
    const value = words[index + 1] ?? '';
    switch (name) {
      case 'uid':
      case 'gid':
        if (!/^\d{1,10}$/.test(value) || Number(value) > 0xffff_fffe) {
          throw wrong(`'${value}' is not a ${name}.`, `A ${name} is a number such as 1000.`);
        }
        options[name] = Number(value);
        break;
      case 'from':
        Object.assign(options, readSource(value));
        break;
      default:
        throw wrong(`'${name}' is not understood.`, 'After the destination come uid, gid and from.');
    }
  }
  return options;
}

function readSource(text: string): Pick<FlowOptions, 'address' | 'port'> {
  const alone = parseIpAddress(text);
  if (alone !== undefined) {
    return { address: alone, port: null };
  }
  const { host, port } = splitPort(text);
  const address = parseIpAddress(host);
  if (address === undefined) {
    throw wrong(`'${text}' is not a source address.`, 'It is an address, or an address with a port.');
  }
  return { address, port };
}

function readTarget(snapshot: Snapshot, text: string): Endpoint {
  const { host, port } = splitPort(text);
  if (host === 'localhost') {
    return { address: toIpAddress('127.0.0.1'), port };
  }
  const address = parseIpAddress(host) ?? snapshot.pods.find((pod) => pod.name === host)?.addresses.find((candidate) => !candidate.includes(':'));
  if (address === undefined) {
    throw wrong(`'${host}' is neither an address nor a pod with an IPv4 address.`, `The node has ${listNames(snapshot)}.`);
  }
  return { address, port };
}

function splitPort(text: string): { readonly host: string; readonly port: PortNumber } {
  const match = /^(?:\[([^\]]+)\]|([^[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3] ?? Number.NaN);
  if (match === null || !(port >= 1 && port <= 65_535)) {
    throw wrong(`'${text}' has no port.`, 'After the address come a colon and a port from 1 to 65535.');
  }
  return { host: match[1] ?? match[2] ?? '', port: toPortNumber(port) };
}

function findOwner(snapshot: Snapshot, place: FlowPlace, uid: number | null, text: string): { readonly uid: number; readonly gid: number } {
  const sockets = snapshot.namespaces.find((namespace) => namespace.id === place.namespace)?.sockets ?? [];
  const sidecars = place.container ? [] : MESH_PROFILES.map((profile) => profile.proxyUid);
  const inPlace = (socket: SocketInfo): boolean => place.cgroup === null || socket.owner?.cgroup === place.cgroup || (!place.container && (socket.owner?.cgroup?.startsWith(`${place.cgroup}/`) ?? false));
  const owners = sockets.filter((socket) => inPlace(socket) && (uid === null ? !sidecars.includes(socket.uid) : socket.uid === uid));
  const uids = new Set(owners.map((socket) => socket.uid));
  const chosen = uid ?? (uids.size === 1 ? [...uids][0] : undefined);
  if (chosen === undefined) {
    const found = uids.size === 0 ? 'No socket of that place tells who runs there.' : `Sockets there belong to the users ${[...uids].join(', ')}.`;
    throw wrong(`Who connects from '${text}' is not known.`, found, 'Add the user, such as: uid 1000');
  }
  const gids = new Set(owners.filter((socket) => socket.uid === chosen).map((socket) => socket.owner?.gid ?? null));
  const [gid] = gids;
  return { uid: chosen, gid: gids.size === 1 && gid !== null && gid !== undefined ? gid : chosen };
}

function listNames(snapshot: Snapshot): string {
  const names = new Set([...snapshot.pods.map((pod) => pod.name), ...snapshot.namespaces.flatMap((namespace) => namespace.names)]);
  const shown = [...names].slice(0, 20);
  return shown.length === 0 ? 'no named pods' : `${shown.join(', ')}${names.size > shown.length ? ` and ${names.size - shown.length} more` : ''}`;
}

function wrong(message: string, reason: string, remedy = `Write it as: ${GRAMMAR}`): MeshpathError {
  return inputError(message, reason, remedy);
}
