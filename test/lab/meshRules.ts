import type { MeshProfile } from '../../agent/protocol/acceleration.ts';
import { isIpv4, splitIpPrefix } from '../../agent/protocol/ipAddress.ts';
import type { IpPrefix, PortNumber } from '../../agent/protocol/scalars.ts';

/**
 * The rules that the meshes' own tools make for a pod, in iptables-restore form, in their order. Ports, owners and lists
 * are those of the profile.
 */

/** What is written in another way for IPv4 and for IPv6. */
interface Family {
  readonly ofIpv4: boolean;
  /** `127.0.0.1/32` */
  readonly localhost: string;
  /** `127.0.0.6/32`; null where the mesh has none. */
  readonly passthrough: string | null;
}

/** Gives the rules of a pod for iptables-restore (family 4) or ip6tables-restore (family 6). */
export function meshRules(profile: MeshProfile, family: 4 | 6 = 4, mesh: keyof typeof MESHES = profile.name as keyof typeof MESHES): string {
  const source = family === 4 ? profile.passthroughSource : profile.passthroughSourceV6;
  const rules = MESHES[mesh](profile, {
    ofIpv4: family === 4,
    localhost: family === 4 ? '127.0.0.1/32' : '::1/128',
    passthrough: source === null ? null : `${source}/${family === 4 ? 32 : 128}`,
  });
  const chains = new Set(rules.map((rule) => rule.split(' ')[1] ?? '').filter((chain) => chain.includes('_')));
  return ['*nat', ...[...chains].map((chain) => `:${chain} - [0:0]`), ...rules, 'COMMIT', ''].join('\n');
}

const MESHES = { istio: istioRules, linkerd: linkerdRules, kuma: kumaRules, osm: osmRules };

/** istio/istio, tools/istio-iptables/pkg/capture/run.go. */
function istioRules(profile: MeshProfile, { ofIpv4, localhost, passthrough }: Family): string[] {
  const inbound = profile.includedInboundPorts;
  const { includedOutboundPorts, includedOutboundRanges } = profile;
  const isLimited = includedOutboundPorts.length + includedOutboundRanges.length > 0;
  return [
    `-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN`,
    `-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports ${profile.outboundPort}`,
    `-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports ${profile.inboundPort}`,
    `-A PREROUTING -p tcp -j ISTIO_INBOUND`,
    ...(inbound.length > 0
      ? inbound.map((port) => `-A ISTIO_INBOUND -p tcp --dport ${port} -j ISTIO_IN_REDIRECT`)
      : [...profile.excludedInboundPorts.map((port) => `-A ISTIO_INBOUND -p tcp --dport ${port} -j RETURN`), `-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT`]),
    `-A OUTPUT -j ISTIO_OUTPUT`,
    ...profile.excludedOutboundPorts.map((port) => `-A ISTIO_OUTPUT -p tcp --dport ${port} -j RETURN`),
    ...(passthrough === null ? [] : [`-A ISTIO_OUTPUT -o lo -s ${passthrough} -j RETURN`]),
    ...['uid', 'gid'].flatMap((owner) => [
      `-A ISTIO_OUTPUT -o lo ! -d ${localhost} -p tcp ! --dport 15008 -m owner --${owner}-owner ${profile.proxyUid} -j ISTIO_IN_REDIRECT`,
      `-A ISTIO_OUTPUT -o lo -m owner ! --${owner}-owner ${profile.proxyUid} -j RETURN`,
      `-A ISTIO_OUTPUT -m owner --${owner}-owner ${profile.proxyUid} -j RETURN`,
    ]),
    `-A ISTIO_OUTPUT -d ${localhost} -j RETURN`,
    ...ofFamily(profile.excludedOutboundRanges, ofIpv4).map((range) => `-A ISTIO_OUTPUT -d ${range} -j RETURN`),
    ...includedOutboundPorts.map((port) => `-A ISTIO_OUTPUT -p tcp --dport ${port} -j ISTIO_REDIRECT`),
    ...(isLimited ? ofFamily(includedOutboundRanges, ofIpv4).map((range) => `-A ISTIO_OUTPUT -d ${range} -j ISTIO_REDIRECT`) : [`-A ISTIO_OUTPUT -j ISTIO_REDIRECT`]),
  ];
}

/** linkerd/linkerd2-proxy-init, pkg/iptables/iptables.go. */
function linkerdRules(profile: MeshProfile, { ofIpv4 }: Family): string[] {
  const inbound = profile.includedInboundPorts;
  return [
    ...multiport('PROXY_INIT_REDIRECT', profile.excludedInboundPorts),
    ...ofFamily(profile.excludedInboundRanges, ofIpv4).map((range) => `-A PROXY_INIT_REDIRECT -p all -s ${range} -j RETURN`),
    ...(inbound.length > 0
      ? inbound.map((port) => `-A PROXY_INIT_REDIRECT -p tcp --dport ${port} -j REDIRECT --to-port ${profile.inboundPort}`)
      : [`-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port ${profile.inboundPort}`]),
    `-A PREROUTING -j PROXY_INIT_REDIRECT`,
    `-A PROXY_INIT_OUTPUT -m owner --uid-owner ${profile.proxyUid} -j RETURN`,
    ...profile.passedGids.map((gid) => `-A PROXY_INIT_OUTPUT -m owner --gid-owner ${gid} -j RETURN`),
    `-A PROXY_INIT_OUTPUT -o lo -j RETURN`,
    ...multiport('PROXY_INIT_OUTPUT', profile.excludedOutboundPorts),
    `-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port ${profile.outboundPort}`,
    `-A OUTPUT -j PROXY_INIT_OUTPUT`,
  ];
}

/** kumahq/kuma, kumactl install transparent-proxy. */
function kumaRules(profile: MeshProfile, { ofIpv4, localhost, passthrough }: Family): string[] {
  return [
    `-A PREROUTING -p tcp -j KUMA_MESH_INBOUND`,
    ...ofFamily(profile.excludedOutboundRanges, ofIpv4).map((range) => `-A OUTPUT -d ${range} -j RETURN`),
    `-A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND`,
    ...ofFamily(profile.excludedInboundRanges, ofIpv4).map((range) => `-A KUMA_MESH_INBOUND -s ${range} -j RETURN`),
    ...profile.excludedInboundPorts.map((port) => `-A KUMA_MESH_INBOUND -p tcp --dport ${port} -j RETURN`),
    `-A KUMA_MESH_INBOUND -p tcp -j KUMA_MESH_INBOUND_REDIRECT`,
    ...profile.excludedOutboundPorts.map((port) => `-A KUMA_MESH_OUTBOUND -p tcp --dport ${port} -j RETURN`),
    ...(passthrough === null ? [] : [`-A KUMA_MESH_OUTBOUND -s ${passthrough} -o lo -j RETURN`]),
    `-A KUMA_MESH_OUTBOUND ! -d ${localhost} -o lo -p tcp -m owner --uid-owner ${profile.proxyUid} -j KUMA_MESH_INBOUND_REDIRECT`,
    `-A KUMA_MESH_OUTBOUND -o lo -p tcp -m owner ! --uid-owner ${profile.proxyUid} -j RETURN`,
    `-A KUMA_MESH_OUTBOUND -m owner --uid-owner ${profile.proxyUid} -j RETURN`,
    `-A KUMA_MESH_OUTBOUND -d ${localhost} -j RETURN`,
    `-A KUMA_MESH_OUTBOUND -j KUMA_MESH_OUTBOUND_REDIRECT`,
    `-A KUMA_MESH_INBOUND_REDIRECT -p tcp -j REDIRECT --to-ports ${profile.inboundPort}`,
    `-A KUMA_MESH_OUTBOUND_REDIRECT -p tcp -j REDIRECT --to-ports ${profile.outboundPort}`,
  ];
}

/** openservicemesh/osm, pkg/injector/iptables.go: exclusions are put in front. */
function osmRules(profile: MeshProfile, { ofIpv4, localhost }: Family): string[] {
  const ranges = ofFamily(profile.includedOutboundRanges, ofIpv4);
  return [
    `-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-port ${profile.inboundPort}`,
    `-A PREROUTING -p tcp -j OSM_PROXY_INBOUND`,
    ...profile.excludedInboundPorts.map((port) => `-A OSM_PROXY_INBOUND -p tcp --dport ${port} -j RETURN`),
    `-A OSM_PROXY_INBOUND -p tcp -j OSM_PROXY_IN_REDIRECT`,
    `-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-port ${profile.outboundPort}`,
    `-A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND`,
    ...profile.excludedOutboundPorts.map((port) => `-A OSM_PROXY_OUTBOUND -p tcp --dport ${port} -j RETURN`),
    ...ofFamily(profile.excludedOutboundRanges, ofIpv4).map((range) => `-A OSM_PROXY_OUTBOUND -d ${range} -j RETURN`),
    `-A OSM_PROXY_OUTBOUND -o lo ! -d ${localhost} -m owner --uid-owner ${profile.proxyUid} -j OSM_PROXY_IN_REDIRECT`,
    `-A OSM_PROXY_OUTBOUND -o lo -m owner ! --uid-owner ${profile.proxyUid} -j RETURN`,
    `-A OSM_PROXY_OUTBOUND -m owner --uid-owner ${profile.proxyUid} -j RETURN`,
    `-A OSM_PROXY_OUTBOUND -d ${localhost} -j RETURN`,
    ...(ranges.length > 0 ? ranges.map((range) => `-A OSM_PROXY_OUTBOUND -d ${range} -j OSM_PROXY_OUT_REDIRECT`) : [`-A OSM_PROXY_OUTBOUND -j OSM_PROXY_OUT_REDIRECT`]),
  ];
}

/** At most 15 ports go into one rule. */
function multiport(chain: string, ports: readonly PortNumber[]): string[] {
  return ports.length === 0 ? [] : [`-A ${chain} -p tcp -m multiport --dports ${ports.join(',')} -j RETURN`, ...multiport(chain, ports.slice(15))];
}

function ofFamily(ranges: readonly IpPrefix[], ofIpv4: boolean): readonly IpPrefix[] {
  return ranges.filter((range) => isIpv4(splitIpPrefix(range).address) === ofIpv4);
}
