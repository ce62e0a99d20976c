import type { MeshProfile } from '../../agent/protocol/acceleration.ts';
import { MESH_PROFILES } from '../../agent/protocol/acceleration.ts';
import { isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { Endpoint, IpAddress } from '../../agent/protocol/scalars.ts';
import { sameEndpoint, writeEndpoint } from '../world/tuple.ts';
import type { OpenedConnection } from '../world/openConnection.ts';

/** What a transparent proxy does with a connection that it took. */
export type SidecarAction =
  /** It connects on. */
  | { readonly kind: 'connects'; readonly side: 'outbound' | 'inbound'; readonly profile: MeshProfile; readonly destination: Endpoint; readonly source: IpAddress | null; readonly assumption: string }
  /** It would connect to itself for ever. */
  | { readonly kind: 'loops'; readonly reason: string }
  /** SO_ORIGINAL_DST failed: it cannot know where to. */
  | { readonly kind: 'lost'; readonly reason: string };

/** Gives the profile of the mesh whose sidecar a listening socket is, and which of its ports; undefined for any other socket. */
export function findSidecar(opened: Pick<OpenedConnection, 'listener'>): { readonly profile: MeshProfile; readonly side: 'outbound' | 'inbound' } | undefined {
  const { uid, local } = opened.listener;
  for (const profile of MESH_PROFILES) {
    if (profile.proxyUid === uid && (local.port === profile.outboundPort || local.port === profile.inboundPort)) {
      return { profile, side: local.port === profile.outboundPort ? 'outbound' : 'inbound' };
    }
  }
  return undefined;
}

/**
 * Says what a sidecar does with a connection for which SO_ORIGINAL_DST answered `original`: it connects on to that
 * address, on the way in from the mesh's passthrough address (Istio: InboundPassthroughCluster, bound to 127.0.0.6 or ::6), or over loopback (OSM).
 * Gives undefined where the listening socket is no sidecar.
 */
export function decideSidecar(opened: OpenedConnection, original: Endpoint | null): SidecarAction | undefined {
  const sidecar = findSidecar(opened);
  if (sidecar === undefined) {
    return undefined;
  }
  const { profile, side } = sidecar;
  const name = opened.server.description;
  if (original === null) {
    return { kind: 'lost', reason: `SO_ORIGINAL_DST tells ${name} nothing, so it cannot know where to connect on to` };
  }
  if (sameEndpoint(original, opened.server.address)) {
    return { kind: 'loops', reason: `${name} was addressed at its own port (${writeEndpoint(original)}): connecting on would reach itself again` };
  }
  const passthrough = isIpv4(original.address) ? profile.passthroughSource : profile.passthroughSourceV6;
  const localhost = toIpAddress(isIpv4(original.address) ? '127.0.0.1' : '::1');
  const destination = side === 'inbound' && profile.connectsToLocalhost ? { ...original, address: localhost } : original;
  const assumption =
    side === 'outbound'
      ? `${name} connects on to ${writeEndpoint(original)}, the address that was asked for: which endpoint a route of the mesh picks is not simulated.`
      : `${name} connects on to ${writeEndpoint(destination)}${passthrough === null ? '' : ` from ${passthrough}`}, as ${profile.name} does by default.`;
  return { kind: 'connects', side, profile, destination, source: side === 'inbound' ? passthrough : null, assumption };
}
