import type { MeshProfile } from '../../agent/protocol/acceleration.ts';
import { isIpv4, splitIpPrefix } from '../../agent/protocol/ipAddress.ts';
import type { IpPrefix } from '../../agent/protocol/scalars.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../../simulator/mesh/istioSidecar.ts';
import { generateKumaRules, KUMA_DEFAULTS } from '../../simulator/mesh/kuma.ts';
import { generateLinkerdRules, LINKERD_INJECTED } from '../../simulator/mesh/linkerd.ts';
import type { AddressRange } from '../../simulator/mesh/meshOptions.ts';
import type { RuleFamily } from '../../simulator/mesh/meshRules.ts';

/**
 * The rules that the meshes' own tools make for a pod, in iptables-restore form, in their order. Ports, owners and lists
 * are those of the profile.
 */

/** What is written in another way for IPv4 and for IPv6. */
interface Family {
  readonly ofIpv4: boolean;
  /** `127.0.0.1/32` */
  readonly localhost: string;
  readonly family: RuleFamily;
}

/** Gives the rules of a pod for iptables-restore (family 4) or ip6tables-restore (family 6). */
export function meshRules(profile: MeshProfile, family: 4 | 6 = 4, mesh: keyof typeof MESHES = profile.name as keyof typeof MESHES): string {
  return MESHES[mesh](profile, { ofIpv4: family === 4, family: family === 4 ? 'ipv4' : 'ipv6', localhost: family === 4 ? '127.0.0.1/32' : '::1/128' });
}

const MESHES = { istio: istioRules, linkerd: linkerdRules, kuma: kumaRules, osm: osmRules };

function istioRules(profile: MeshProfile, { family }: Family): string {
  const { includedInboundPorts, includedOutboundPorts, includedOutboundRanges } = profile;
  const isLimited = includedOutboundPorts.length + includedOutboundRanges.length > 0;
  return generateIstioSidecarRules({
    ...ISTIO_INJECTED,
    envoyPort: profile.outboundPort,
    inboundCapturePort: profile.inboundPort,
    proxyUids: [String(profile.proxyUid)],
    proxyGids: [String(profile.proxyGid)],
    inboundPorts: includedInboundPorts.length > 0 ? includedInboundPorts : '*',
    excludedInboundPorts: profile.excludedInboundPorts,
    excludedOutboundPorts: profile.excludedOutboundPorts,
    excludedOutboundRanges: profile.excludedOutboundRanges.map(toRange),
    outboundPorts: includedOutboundPorts,
    outboundRanges: isLimited ? includedOutboundRanges.map(toRange) : '*',
    ipv6: true,
  })[family];
}

function linkerdRules(profile: MeshProfile, { family }: Family): string {
  return generateLinkerdRules({
    ...LINKERD_INJECTED,
    incomingProxyPort: profile.inboundPort,
    outgoingProxyPort: profile.outboundPort,
    proxyUid: profile.proxyUid,
    proxyGid: profile.passedGids[0] ?? null,
    portsToRedirect: profile.includedInboundPorts,
    inboundPortsToIgnore: profile.excludedInboundPorts.map(String),
    outboundPortsToIgnore: profile.excludedOutboundPorts.map(String),
    subnetsToIgnore: profile.excludedInboundRanges.map(toRange),
  })[family];
}

function kumaRules(profile: MeshProfile, { family }: Family): string {
  return generateKumaRules({
    ...KUMA_DEFAULTS,
    inboundPort: profile.inboundPort,
    outboundPort: profile.outboundPort,
    proxyUid: profile.proxyUid,
    excludedInboundPorts: profile.excludedInboundPorts,
    excludedOutboundPorts: profile.excludedOutboundPorts,
    excludedInboundRanges: profile.excludedInboundRanges.map(toRange),
    excludedOutboundRanges: profile.excludedOutboundRanges.map(toRange),
  })[family];
}

function toRange(text: IpPrefix): AddressRange {
  const { address } = splitIpPrefix(text);
  return { family: isIpv4(address) ? 'ipv4' : 'ipv6', address, text };
}

/** OSM as the profile knows it, before its release 1.0: exclusions are put in front. The generator gives the rules of later ones. */
function osmRules(profile: MeshProfile, { ofIpv4, localhost }: Family): string {
  const ranges = ofFamily(profile.includedOutboundRanges, ofIpv4);
  const rules = [
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
  const chains = new Set(rules.map((rule) => rule.split(' ')[1] ?? '').filter((chain) => chain.includes('_')));
  return ['*nat', ...[...chains].map((chain) => `:${chain} - [0:0]`), ...rules, 'COMMIT', ''].join('\n');
}

function ofFamily(ranges: readonly IpPrefix[], ofIpv4: boolean): readonly IpPrefix[] {
  return ranges.filter((range) => isIpv4(splitIpPrefix(range).address) === ofIpv4);
}
