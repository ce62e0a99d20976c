import { inputError } from '../../agent/protocol/errors.ts';
import { isIpv4, parseIpAddress, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import { optionError, readInterfaces } from './meshOptions.ts';
import type { MeshOption, OptionValues } from './meshOptions.ts';
import type { MeshRules, RuleFamily } from './meshRules.ts';
import { RuleList } from './meshRules.ts';

/** What istio-cni is told for a pod in ambient mode, and for the node (cni/pkg/iptables/iptables.go). */
export interface IstioAmbientOptions {
  /** `pod`: the rules in each pod; `host`: those of the node, which give health probes their own source address. */
  readonly where: 'pod' | 'host';
  readonly redirectDns: boolean;
  /** A pod that is a gateway: connections that come in are left alone. */
  readonly ingress: boolean;
  readonly virtualInterfaces: readonly string[];
  readonly probeAddress: IpAddress;
  readonly probeAddress6: IpAddress;
  readonly ipv6: boolean;
}

export const ISTIO_AMBIENT_DEFAULTS: IstioAmbientOptions = {
  where: 'pod',
  redirectDns: false,
  ingress: false,
  virtualInterfaces: [],
  probeAddress: toIpAddress('169.254.7.127'),
  probeAddress6: toIpAddress('fd16:9254:7127:1337:ffff:ffff:ffff:ffff'),
  ipv6: false,
};

/** The options of ambient mode; those that it shares with a sidecar's are not repeated. */
export const ISTIO_AMBIENT_OPTIONS: readonly MeshOption[] = [
  { name: 'ambient', type: 'boolean', description: 'The rules of ambient mode in a pod, as istio-cni installs them; with --redirect-dns, --kube-virt-interfaces and --dual-stack.' },
  { name: 'ambient-host', type: 'boolean', description: 'The rules of ambient mode in the network namespace of the node.' },
  { name: 'bypass-inbound-capture', type: 'boolean', description: 'With --ambient: what the annotation ambient.istio.io/bypass-inbound-capture says.' },
  { name: 'host-probe-snat-ip', type: 'string', valueName: 'ADDRESS', description: 'With --ambient: the source of health probes (169.254.7.127).' },
  { name: 'host-probe-snat-ipv6', type: 'string', valueName: 'ADDRESS', description: 'The same for IPv6 (fd16:9254:7127:1337:ffff:ffff:ffff:ffff).' },
];

/** Options of ambient mode that a sidecar has too. */
const SHARED_OPTIONS: ReadonlySet<string> = new Set(['redirect-dns', 'kube-virt-interfaces', 'dual-stack']);

/** ztunnel's mark, and the one of connections that it opened; both under the mask 0xfff. */
const PROXY_MARK = '0x539/0xfff';
const CONNECTION_MARK = '0x111/0xfff';

/** Reads the options of ambient mode. Throws a MeshpathError INPUT_INVALID for what is wrong, and for options of `others` that only a sidecar has. */
export function readIstioAmbientOptions(values: OptionValues, others: readonly MeshOption[]): IstioAmbientOptions {
  const unused = others.find(({ name }) => !SHARED_OPTIONS.has(name) && (values.flag(name) || values.text(name) !== undefined));
  if (unused !== undefined) {
    throw inputError(`--${unused.name} does not go with ambient mode.`, 'It belongs to istio-iptables, which sets up sidecars.', `Leave --${unused.name} out, or --ambient.`);
  }
  const virtualInterfaces = values.text('kube-virt-interfaces');
  return {
    where: values.flag('ambient-host') ? 'host' : 'pod',
    redirectDns: values.flag('redirect-dns'),
    ingress: values.flag('bypass-inbound-capture'),
    virtualInterfaces: virtualInterfaces === undefined ? [] : readInterfaces('kube-virt-interfaces', virtualInterfaces),
    probeAddress: readAddress(values, 'host-probe-snat-ip', 'ipv4', ISTIO_AMBIENT_DEFAULTS.probeAddress),
    probeAddress6: readAddress(values, 'host-probe-snat-ipv6', 'ipv6', ISTIO_AMBIENT_DEFAULTS.probeAddress6),
    ipv6: values.flag('dual-stack'),
  };
}

/** Gives the rules that istio-cni installs for ambient mode, byte for byte as it gives them to iptables-restore. */
export function generateIstioAmbientRules(options: IstioAmbientOptions): MeshRules {
  const generate = options.where === 'pod' ? podRules : hostRules;
  return {
    ipv4: generate(options, 'ipv4'),
    ipv6: options.ipv6 ? generate(options, 'ipv6') : '',
    setup: options.where === 'pod' ? podSetup(options) : hostSetup(options),
    commands: [],
    notes: [],
  };
}

function podRules({ redirectDns, ingress, virtualInterfaces, probeAddress, probeAddress6 }: IstioAmbientOptions, family: RuleFamily): string {
  const rules = new RuleList();
  const loopback = family === 'ipv4' ? '127.0.0.1/32' : '::1/128';
  const probe = family === 'ipv4' ? probeAddress : probeAddress6;
  rules.append('mangle', 'PREROUTING', '-j ISTIO_PRERT');
  rules.append('mangle', 'OUTPUT', '-j ISTIO_OUTPUT');
  rules.append('nat', 'OUTPUT', '-j ISTIO_OUTPUT');
  if (redirectDns) {
    rules.append('raw', 'PREROUTING', '-j ISTIO_PRERT');
    rules.append('raw', 'OUTPUT', '-j ISTIO_OUTPUT');
  }
  rules.append('nat', 'PREROUTING', '-j ISTIO_PRERT');
  for (const name of virtualInterfaces) {
    rules.append('nat', 'ISTIO_PRERT', `-i ${name} -p tcp -j REDIRECT --to-ports 15001`);
    rules.append('nat', 'ISTIO_PRERT', `-i ${name} -p tcp -j RETURN`);
  }
  if (!ingress) {
    rules.append('mangle', 'ISTIO_PRERT', `-m mark --mark ${PROXY_MARK} -j CONNMARK --set-xmark ${CONNECTION_MARK}`);
    rules.append('nat', 'ISTIO_PRERT', `-s ${probe} -p tcp -m tcp -j ACCEPT`);
  }
  rules.append('nat', 'ISTIO_OUTPUT', `-d ${probe} -p tcp -m tcp -j ACCEPT`);
  if (!ingress) {
    rules.append('nat', 'ISTIO_PRERT', `! -d ${loopback} -p tcp ! --dport 15008 -m mark ! --mark ${PROXY_MARK} -j REDIRECT --to-ports 15006`);
  }
  rules.append('mangle', 'ISTIO_OUTPUT', `-m connmark --mark ${CONNECTION_MARK} -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff`);
  if (redirectDns) {
    rules.append('nat', 'ISTIO_OUTPUT', `! -o lo -p udp -m mark ! --mark ${PROXY_MARK} -m udp --dport 53 -j REDIRECT --to-port 15053`);
    rules.append('nat', 'ISTIO_OUTPUT', `! -d ${loopback} -p tcp --dport 53 -m mark ! --mark ${PROXY_MARK} -j REDIRECT --to-ports 15053`);
    rules.append('raw', 'ISTIO_OUTPUT', `-p udp -m mark --mark ${PROXY_MARK} -m udp --dport 53 -j CT --zone 1`);
    rules.append('raw', 'ISTIO_PRERT', `-p udp -m mark ! --mark ${PROXY_MARK} -m udp --sport 53 -j CT --zone 1`);
  }
  rules.append('nat', 'ISTIO_OUTPUT', `-p tcp -m mark --mark ${CONNECTION_MARK} -j ACCEPT`);
  rules.append('nat', 'ISTIO_OUTPUT', `! -d ${loopback} -o lo -j ACCEPT`);
  rules.append('nat', 'ISTIO_OUTPUT', `! -d ${loopback} -p tcp -m mark ! --mark ${PROXY_MARK} -j REDIRECT --to-ports 15001`);
  return rules.restoreText(['filter', 'mangle', 'nat', 'raw']);
}

function hostRules({ probeAddress, probeAddress6 }: IstioAmbientOptions, family: RuleFamily): string {
  const rules = new RuleList();
  const [set, probe] = family === 'ipv4' ? ['istio-inpod-probes-v4', probeAddress] : ['istio-inpod-probes-v6', probeAddress6];
  rules.append('nat', 'POSTROUTING', '-j ISTIO_POSTRT');
  rules.append('nat', 'ISTIO_POSTRT', `-m owner --socket-exists -p tcp -m set --match-set ${set} dst -j SNAT --to-source ${probe}`);
  return rules.restoreText(['nat']);
}

/** AddInpodMarkIPRule and AddLoopbackRoutes of cni/pkg/iptables/iptables_linux.go. */
function podSetup({ ipv6 }: IstioAmbientOptions): readonly string[] {
  return (ipv6 ? ['-4', '-6'] : ['-4']).flatMap((family) => [
    `ip ${family} rule add pref 32764 fwmark ${CONNECTION_MARK} lookup 100`,
    `ip ${family} route add local default dev lo table 100`,
  ]);
}

function hostSetup({ ipv6 }: IstioAmbientOptions): readonly string[] {
  return ['ipset create istio-inpod-probes-v4 hash:ip comment', ...(ipv6 ? ['ipset create istio-inpod-probes-v6 hash:ip family inet6 comment'] : [])];
}

function readAddress(values: OptionValues, option: string, family: RuleFamily, fallback: IpAddress): IpAddress {
  const text = values.text(option);
  if (text === undefined) {
    return fallback;
  }
  const address = parseIpAddress(text);
  if (address === undefined || isIpv4(address) !== (family === 'ipv4')) {
    throw optionError(option, text, family === 'ipv4' ? 'an IPv4 address' : 'an IPv6 address');
  }
  return address;
}
