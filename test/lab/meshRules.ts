import type { MeshProfile } from '../../agent/protocol/acceleration.ts';
import { isIpv4, splitIpPrefix } from '../../agent/protocol/ipAddress.ts';
import type { IpPrefix } from '../../agent/protocol/scalars.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from '../../simulator/mesh/istioSidecar.ts';
import { generateKumaRules, KUMA_DEFAULTS } from '../../simulator/mesh/kuma.ts';
import { generateLinkerdRules, LINKERD_INJECTED } from '../../simulator/mesh/linkerd.ts';
import { generateOsmRules } from '../../simulator/mesh/osm.ts';
import type { AddressRange } from '../../simulator/mesh/meshOptions.ts';
import type { RuleFamily } from '../../simulator/mesh/meshRules.ts';

/**
 * The rules that the meshes' own tools make for a pod, in iptables-restore form, in their order. Ports, owners and lists
 * are those of the profile.
 */

/** Gives the rules of a pod for iptables-restore (family 4) or ip6tables-restore (family 6). */
export function meshRules(profile: MeshProfile, family: 4 | 6 = 4, mesh: keyof typeof MESHES = profile.name as keyof typeof MESHES): string {
  return MESHES[mesh](profile, family === 4 ? 'ipv4' : 'ipv6');
}

const MESHES = { istio: istioRules, linkerd: linkerdRules, kuma: kumaRules, osm: osmRules };

function istioRules(profile: MeshProfile, family: RuleFamily): string {
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

function linkerdRules(profile: MeshProfile, family: RuleFamily): string {
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

function kumaRules(profile: MeshProfile, family: RuleFamily): string {
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

/** Its ports and its user cannot be chosen. */
function osmRules(profile: MeshProfile, family: RuleFamily): string {
  return generateOsmRules({
    excludedOutboundRanges: profile.excludedOutboundRanges.map(toRange),
    includedOutboundRanges: profile.includedOutboundRanges.map(toRange),
    excludedOutboundPorts: profile.excludedOutboundPorts,
    excludedInboundPorts: profile.excludedInboundPorts,
    excludedInterfaces: [],
    podAddress: null,
  })[family];
}
