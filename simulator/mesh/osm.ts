import { inputError } from '../../agent/protocol/errors.ts';
import { isIpv4, parseIpAddress } from '../../agent/protocol/ipAddress.ts';
import { optionError, readChoice, readInterfaces, readPorts, readRange, splitList } from './meshOptions.ts';
import type { AddressRange, MeshOption, OptionValues } from './meshOptions.ts';
import type { MeshRules } from './meshRules.ts';
import type { MeshTool } from './meshTool.ts';

/** What osm-injector takes from the MeshConfig and from annotations of a pod. */
export interface OsmOptions {
  readonly excludedOutboundRanges: readonly AddressRange[];
  readonly includedOutboundRanges: readonly AddressRange[];
  readonly excludedOutboundPorts: readonly number[];
  readonly excludedInboundPorts: readonly number[];
  readonly excludedInterfaces: readonly string[];
  /** `PodIP`: what the sidecar sends to 127.0.0.1 goes to the pod's own address instead, which is given. */
  readonly podAddress: string | null;
}

export const OSM_DEFAULTS: OsmOptions = {
  excludedOutboundRanges: [],
  includedOutboundRanges: [],
  excludedOutboundPorts: [],
  excludedInboundPorts: [],
  excludedInterfaces: [],
  podAddress: null,
};

const OPTIONS: readonly MeshOption[] = [
  { name: 'outbound-ip-range-exclusion-list', type: 'string', valueName: 'CIDR,…', description: 'Destinations that are left alone (outboundIPRangeExclusionList).' },
  { name: 'outbound-ip-range-inclusion-list', type: 'string', valueName: 'CIDR,…', description: 'Destinations that alone are captured (outboundIPRangeInclusionList).' },
  { name: 'outbound-port-exclusion-list', type: 'string', valueName: 'PORT,…', description: 'Ports that are left alone on the way out (outboundPortExclusionList).' },
  { name: 'inbound-port-exclusion-list', type: 'string', valueName: 'PORT,…', description: 'Ports that are left alone on the way in (inboundPortExclusionList).' },
  { name: 'network-interface-exclusion-list', type: 'string', valueName: 'NAME,…', description: 'Interfaces that are left alone (networkInterfaceExclusionList).' },
  { name: 'local-proxy-mode', type: 'string', valueName: 'MODE', description: 'Localhost or PodIP: how the sidecar reaches its application (Localhost).' },
  { name: 'pod-ip', type: 'string', valueName: 'ADDRESS', description: "With --local-proxy-mode PodIP: the pod's address ($POD_IP)." },
];

const ENVOY_UID = 1500;
/** Ports that are never captured on the way in: metrics, and the probes for liveness, readiness, startup and health. */
const PASSED_INBOUND_PORTS = [15_010, 15_901, 15_902, 15_903, 15_904];

export const OSM_TOOL: MeshTool = {
  name: 'osm',
  summary: 'The rules of Open Service Mesh.',
  description: ['The options are the fields of spec.traffic and spec.sidecar of its MeshConfig, written with hyphens. OSM has IPv4 rules only.'],
  options: OPTIONS,
  ipv6Option: null,
  generate: (values) => generateOsmRules(readOsmOptions(values)),
};

/**
 * Gives the rules that OSM's init container installs, as it gives them to `iptables-restore --noflush`
 * (openservicemesh/osm, pkg/injector/iptables.go).
 */
export function generateOsmRules(options: OsmOptions): MeshRules {
  const lines = [
    '# OSM sidecar interception rules',
    '*nat',
    ...['INBOUND', 'IN_REDIRECT', 'OUTBOUND', 'OUT_REDIRECT'].map((chain) => `:OSM_PROXY_${chain} - [0:0]`),
    ...inboundRules(options),
    ...outboundRules(options),
    'COMMIT',
  ];
  return { ipv4: `${lines.join('\n')}\n`, ipv6: '', setup: [], commands: [], notes: [] };
}

function readOsmOptions(values: OptionValues): OsmOptions {
  const read = <T>(name: string, reader: (option: string, text: string) => readonly T[]): readonly T[] => {
    const text = values.text(name);
    return text === undefined ? [] : reader(name, text);
  };
  const ranges = (option: string, text: string): readonly AddressRange[] =>
    splitList(option, text).map((entry) => {
      const range = readRange(option, entry, { length: 'required' });
      if (range.family !== 'ipv4') {
        throw optionError(option, entry, 'an IPv4 network such as 10.0.0.0/8');
      }
      return range;
    });
  return {
    excludedOutboundRanges: read('outbound-ip-range-exclusion-list', ranges),
    includedOutboundRanges: read('outbound-ip-range-inclusion-list', ranges),
    excludedOutboundPorts: read('outbound-port-exclusion-list', readPorts),
    excludedInboundPorts: read('inbound-port-exclusion-list', readPorts),
    excludedInterfaces: read('network-interface-exclusion-list', readInterfaces),
    podAddress: readPodAddress(values),
  };
}

function readPodAddress(values: OptionValues): string | null {
  const mode = values.text('local-proxy-mode');
  const text = values.text('pod-ip');
  if (mode === undefined || readChoice('local-proxy-mode', mode, ['Localhost', 'PodIP'] as const) === 'Localhost') {
    return null;
  }
  if (text === undefined) {
    throw inputError("The pod's address is missing.", 'With --local-proxy-mode PodIP a rule names it.', 'Give --pod-ip ADDRESS.');
  }
  const address = parseIpAddress(text);
  if (address === undefined || !isIpv4(address)) {
    throw optionError('pod-ip', text, 'an IPv4 address');
  }
  return address;
}

function inboundRules({ excludedInterfaces, excludedInboundPorts }: OsmOptions): readonly string[] {
  return [
    '-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-port 15003',
    '-A PREROUTING -p tcp -j OSM_PROXY_INBOUND',
    ...PASSED_INBOUND_PORTS.map((port) => `-A OSM_PROXY_INBOUND -p tcp --dport ${port} -j RETURN`),
    '-A OSM_PROXY_INBOUND -p tcp -j OSM_PROXY_IN_REDIRECT',
    ...excludedInterfaces.map((name) => `-I OSM_PROXY_INBOUND -i ${name} -j RETURN`),
    ...(excludedInboundPorts.length === 0 ? [] : [`-I OSM_PROXY_INBOUND -p tcp --match multiport --dports ${excludedInboundPorts.join(',')} -j RETURN`]),
  ];
}

function outboundRules({ podAddress, excludedInterfaces, excludedOutboundRanges, excludedOutboundPorts, includedOutboundRanges }: OsmOptions): readonly string[] {
  return [
    '-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-port 15001',
    '-A OSM_PROXY_OUT_REDIRECT -p tcp --dport 15000 -j ACCEPT',
    '-A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND',
    `-A OSM_PROXY_OUTBOUND -o lo ! -d 127.0.0.1/32 -m owner --uid-owner ${ENVOY_UID} -j OSM_PROXY_IN_REDIRECT`,
    `-A OSM_PROXY_OUTBOUND -o lo -m owner ! --uid-owner ${ENVOY_UID} -j RETURN`,
    `-A OSM_PROXY_OUTBOUND -m owner --uid-owner ${ENVOY_UID} -j RETURN`,
    '-A OSM_PROXY_OUTBOUND -d 127.0.0.1/32 -j RETURN',
    ...(podAddress === null ? [] : [`-I OUTPUT -p tcp -o lo -d 127.0.0.1/32 -m owner --uid-owner ${ENVOY_UID} -j DNAT --to-destination ${podAddress}`]),
    ...excludedInterfaces.map((name) => `-A OSM_PROXY_OUTBOUND -o ${name} -j RETURN`),
    ...excludedOutboundRanges.map(({ text }) => `-A OSM_PROXY_OUTBOUND -d ${text} -j RETURN`),
    ...(excludedOutboundPorts.length === 0 ? [] : [`-A OSM_PROXY_OUTBOUND -p tcp --match multiport --dports ${excludedOutboundPorts.join(',')} -j RETURN`]),
    ...(includedOutboundRanges.length === 0
      ? ['-A OSM_PROXY_OUTBOUND -j OSM_PROXY_OUT_REDIRECT']
      : [...includedOutboundRanges.map(({ text }) => `-A OSM_PROXY_OUTBOUND -d ${text} -j OSM_PROXY_OUT_REDIRECT`), '-A OSM_PROXY_OUTBOUND -j RETURN']),
  ];
}
