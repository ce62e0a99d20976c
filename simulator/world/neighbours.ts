import type { Address } from '../netfilter/address.ts';
import type { NetworkLink } from '../../agent/protocol/snapshot.ts';
import type { World, WorldNamespace } from './world.ts';
import { findLink, ownsAddress, readSysctl } from './world.ts';

/** Where a packet that leaves by a device comes in. */
export type Neighbour =
  | { readonly kind: 'arrives'; readonly namespace: WorldNamespace; readonly link: NetworkLink; readonly bridge: Bridge | null; readonly assumption: string | null }
  /** Out of this node, by a device that is none of a container's. */
  | { readonly kind: 'leaves'; readonly namespace: WorldNamespace; readonly device: string }
  /** Nobody answers for the next hop. */
  | { readonly kind: 'nobody'; readonly reason: string }
  | { readonly kind: 'unknown'; readonly dependsOn: string };

/** The bridge that a packet went over from port to port. */
export interface Bridge {
  readonly namespace: WorldNamespace;
  readonly link: NetworkLink;
}

/**
 * Finds who receives a packet that leaves a namespace by a device for a next hop: over a veth pair, and over a bridge to
 * the port behind which the next hop's address is. Who answers for an address is taken from who owns it.
 */
export function findNeighbour(world: World, namespace: WorldNamespace, device: string, nextHop: Address): Neighbour {
  const link = findLink(namespace, device);
  if (link?.up !== true) {
    return { kind: 'nobody', reason: `the device ${device} of ${namespace.title} is ${link === undefined ? 'missing' : 'down'}` };
  }
  switch (link.kind) {
    case 'loopback':
      return { kind: 'arrives', namespace, link, bridge: null, assumption: null };
    case 'veth':
      return crossPair(world, namespace, link, nextHop);
    case 'bridge':
      return crossBridge(world, { namespace, link }, null, nextHop);
    default:
      return { kind: 'leaves', namespace, device };
  }
}

function crossPair(world: World, namespace: WorldNamespace, link: NetworkLink, nextHop: Address): Neighbour {
  const peer = findPeer(world, link);
  if (peer === undefined) {
    return findOwner(world, namespace, nextHop) ?? { kind: 'leaves', namespace, device: link.name };
  }
  if (!peer.link.up) {
    return { kind: 'nobody', reason: `the other end of ${link.name}, ${peer.link.name} in ${peer.namespace.title}, is down` };
  }
  const bridge = peer.link.master === null ? undefined : findLink(peer.namespace, peer.link.master);
  if (bridge?.kind === 'bridge') {
    return crossBridge(world, { namespace: peer.namespace, link: bridge }, peer.link.index, nextHop);
  }
  const arrives = { kind: 'arrives', namespace: peer.namespace, link: peer.link, bridge: null } as const;
  // Nobody answers for a loopback address (net/ipv4/arp.c, arp_process).
  const isLoopback = nextHop.isIpv4 && nextHop.w0 >>> 24 === 127;
  if ((ownsAddress(peer.namespace, nextHop.text) && !isLoopback) || proxiesArp(peer.namespace, peer.link)) {
    return { ...arrives, assumption: null };
  }
  return { kind: 'unknown', dependsOn: `whether ${peer.namespace.title} answers for ${nextHop.text} at ${peer.link.name}` };
}

function crossBridge(world: World, bridge: Bridge, from: number | null, nextHop: Address): Neighbour {
  if (from !== null && ownsAddress(bridge.namespace, nextHop.text)) {
    return { kind: 'arrives', namespace: bridge.namespace, link: bridge.link, bridge: null, assumption: null };
  }
  const ports = bridge.namespace.state.links.filter((port) => port.master === bridge.link.name && port.index !== from && port.up);
  const peers = ports.filter((port) => port.kind === 'veth').map((port) => findPeer(world, port));
  const owner = peers.find((peer) => peer !== undefined && peer.link.up && ownsAddress(peer.namespace, nextHop.text));
  if (owner !== undefined) {
    return { kind: 'arrives', ...owner, bridge, assumption: null };
  }
  if (peers.includes(undefined)) {
    const found = findOwner(world, bridge.namespace, nextHop);
    return found ?? { kind: 'unknown', dependsOn: `who is behind the ports of ${bridge.link.name} in ${bridge.namespace.title}` };
  }
  const uplink = ports.find((port) => port.kind !== 'veth');
  return uplink === undefined
    ? { kind: 'nobody', reason: `no port of the bridge ${bridge.link.name} leads to ${nextHop.text}` }
    : { kind: 'leaves', namespace: bridge.namespace, device: uplink.name };
}

/** The namespace of the node that owns an address, where the way to it is not in the snapshot. */
function findOwner(world: World, from: WorldNamespace, address: Address): Neighbour | undefined {
  for (const namespace of world.namespaces.values()) {
    const link = namespace.state.links.find((candidate) => candidate.kind !== 'loopback' && candidate.up && candidate.addresses.some((entry) => entry.address === address.text));
    if (namespace !== from && link !== undefined) {
      const assumption = `The snapshot does not show how ${from.title} reaches ${address.text}; it is taken to arrive at ${namespace.title}, which owns it, with nothing in between.`;
      return { kind: 'arrives', namespace, link, bridge: null, assumption };
    }
  }
  return undefined;
}

function findPeer(world: World, link: NetworkLink): { namespace: WorldNamespace; link: NetworkLink } | undefined {
  const { peer } = link;
  const id = peer?.namespace ?? null;
  const namespace = id === null ? undefined : world.namespaces.get(id);
  const other = namespace?.state.links.find((candidate) => candidate.index === peer?.index);
  return namespace === undefined || other === undefined ? undefined : { namespace, link: other };
}

function proxiesArp(namespace: WorldNamespace, link: NetworkLink): boolean {
  return readSysctl(namespace, 'net.ipv4.conf.all.proxy_arp') === 1 || readSysctl(namespace, `net.ipv4.conf.${link.name}.proxy_arp`) === 1;
}
