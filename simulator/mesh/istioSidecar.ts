import type { TableName } from '../../agent/protocol/trace.ts';
import { isLoopbackAddress, optionError, readAddresses, readChoice, readInterfaces, readOwners, readPort, readPorts, readRange, readRanges, readUint32, splitList } from './meshOptions.ts';
import type { AddressRange, MeshOption, OptionValues } from './meshOptions.ts';
import type { MeshRules, RuleFamily } from './meshRules.ts';
import { RuleList } from './meshRules.ts';

/** What istio-iptables is told, in its own terms (tools/istio-iptables/pkg/config/config.go). */
export interface IstioSidecarOptions {
  /** `-p`: where outgoing connections are sent. */
  readonly envoyPort: number;
  /** `-z`: where incoming connections are sent. */
  readonly inboundCapturePort: number;
  /** `-e`: HBONE, which is never captured. */
  readonly inboundTunnelPort: number;
  /** `-u`, `-g`: numbers, or names that iptables looks up. */
  readonly proxyUids: readonly string[];
  readonly proxyGids: readonly string[];
  /** `-m` */
  readonly interceptionMode: 'REDIRECT' | 'TPROXY';
  readonly tproxyMark: number;
  readonly tproxyRouteTable: number;
  /** `-b`: ports that are captured on the way in; `*` for all but `excludedInboundPorts`. */
  readonly inboundPorts: '*' | readonly number[];
  /** `-d` */
  readonly excludedInboundPorts: readonly number[];
  /** `-c` */
  readonly excludedInterfaces: readonly string[];
  /** `-i`: destinations that are captured on the way out. */
  readonly outboundRanges: '*' | readonly AddressRange[];
  /** `-x` */
  readonly excludedOutboundRanges: readonly AddressRange[];
  /** `-q`: ports that are captured whatever the destination. */
  readonly outboundPorts: readonly number[];
  /** `-o` */
  readonly excludedOutboundPorts: readonly number[];
  /** `-k`: interfaces of virtual machines, whose packets are taken as outgoing. */
  readonly virtualInterfaces: readonly string[];
  /** Groups whose packets are captured on the way out. */
  readonly ownerGroups: '*' | readonly string[];
  /** Groups whose packets are not, with `*` above. */
  readonly excludedOwnerGroups: readonly string[];
  readonly ipv4LoopbackRange: string;
  /** Null: DNS is left alone; `all`, or the servers of /etc/resolv.conf. */
  readonly capturedDns: 'all' | readonly AddressRange[] | null;
  readonly dropInvalid: boolean;
  /** Whether the pod has an IPv6 address. */
  readonly ipv6: boolean;
}

/** What istio-iptables does where it is told nothing: the chains, and nothing is captured. */
export const ISTIO_TOOL_DEFAULTS: IstioSidecarOptions = {
  envoyPort: 15_001,
  inboundCapturePort: 15_006,
  inboundTunnelPort: 15_008,
  proxyUids: ['1337'],
  proxyGids: ['1337'],
  interceptionMode: 'REDIRECT',
  tproxyMark: 1337,
  tproxyRouteTable: 133,
  inboundPorts: [],
  excludedInboundPorts: [],
  excludedInterfaces: [],
  outboundRanges: [],
  excludedOutboundRanges: [],
  outboundPorts: [],
  excludedOutboundPorts: [],
  virtualInterfaces: [],
  ownerGroups: '*',
  excludedOwnerGroups: [],
  ipv4LoopbackRange: '127.0.0.1/32',
  capturedDns: null,
  dropInvalid: false,
  ipv6: false,
};

/** What an injected sidecar is started with: all is captured but the sidecar's own ports. */
export const ISTIO_INJECTED: IstioSidecarOptions = {
  ...ISTIO_TOOL_DEFAULTS,
  inboundPorts: '*',
  excludedInboundPorts: [15_020, 15_021, 15_090],
  outboundRanges: '*',
};

/** The options of istio-iptables that change its rules, and after them what it takes from its surroundings. */
export const ISTIO_SIDECAR_OPTIONS: readonly MeshOption[] = [
  { name: 'envoy-port', short: 'p', type: 'string', valueName: 'PORT', description: 'Where outgoing connections are sent (15001).' },
  { name: 'inbound-capture-port', short: 'z', type: 'string', valueName: 'PORT', description: 'Where incoming connections are sent (15006).' },
  { name: 'inbound-tunnel-port', short: 'e', type: 'string', valueName: 'PORT', description: 'The port of HBONE, which is never captured (15008).' },
  { name: 'proxy-uid', short: 'u', type: 'string', valueName: 'UID,…', description: 'Users that the sidecar runs as (1337).' },
  { name: 'proxy-gid', short: 'g', type: 'string', valueName: 'GID,…', description: 'Groups that the sidecar runs as (those of --proxy-uid).' },
  { name: 'istio-inbound-interception-mode', short: 'm', type: 'string', valueName: 'MODE', description: 'REDIRECT or TPROXY (REDIRECT).' },
  { name: 'istio-inbound-tproxy-mark', short: 't', type: 'string', valueName: 'MARK', description: 'The mark of TPROXY (1337).' },
  { name: 'istio-inbound-tproxy-route-table', short: 'r', type: 'string', valueName: 'TABLE', description: 'The routing table of TPROXY (133).' },
  { name: 'istio-inbound-ports', short: 'b', type: 'string', valueName: 'PORT,…', description: 'Ports that are captured on the way in; "*" for all (none).' },
  { name: 'istio-local-exclude-ports', short: 'd', type: 'string', valueName: 'PORT,…', description: 'Ports that are not, with -b "*".' },
  { name: 'istio-exclude-interfaces', short: 'c', type: 'string', valueName: 'NAME,…', description: 'Interfaces that are left alone.' },
  { name: 'istio-service-cidr', short: 'i', type: 'string', valueName: 'CIDR,…', description: 'Destinations that are captured on the way out; "*" for all (none).' },
  { name: 'istio-service-exclude-cidr', short: 'x', type: 'string', valueName: 'CIDR,…', description: 'Destinations that are not.' },
  { name: 'istio-outbound-ports', short: 'q', type: 'string', valueName: 'PORT,…', description: 'Ports that are captured whatever the destination.' },
  { name: 'istio-local-outbound-ports-exclude', short: 'o', type: 'string', valueName: 'PORT,…', description: 'Ports that are never captured on the way out.' },
  { name: 'kube-virt-interfaces', short: 'k', type: 'string', valueName: 'NAME,…', description: 'Interfaces of virtual machines, whose packets are taken as outgoing.' },
  { name: 'redirect-dns', type: 'boolean', description: "Send DNS to the agent's port 15053." },
  { name: 'capture-all-dns', type: 'boolean', description: 'With --redirect-dns: to whichever server it goes.' },
  { name: 'drop-invalid', type: 'boolean', description: 'Drop what conntrack calls INVALID.' },
  { name: 'dual-stack', type: 'boolean', description: 'The pod has an IPv6 address too.' },
  { name: 'istio-outbound-owner-groups', type: 'string', valueName: 'GROUP,…', description: 'What $ISTIO_OUTBOUND_OWNER_GROUPS says: groups that are captured ("*").' },
  { name: 'istio-outbound-owner-groups-exclude', type: 'string', valueName: 'GROUP,…', description: 'What $ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE says: groups that are not.' },
  { name: 'istio-outbound-ipv4-loopback-cidr', type: 'string', valueName: 'CIDR', description: 'What $ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR says (127.0.0.1/32).' },
  { name: 'dns-servers', type: 'string', valueName: 'ADDRESS,…', description: 'With --redirect-dns: the name servers that /etc/resolv.conf of the pod has.' },
];

/** How many groups istio-iptables takes to capture (tools/istio-iptables/pkg/config/validation.go). */
const MAX_OWNER_GROUPS = 64;
/** The mark of what a sidecar in TPROXY mode sends to its own pod. */
const OUTBOUND_MARK = 1338;
const DNS_PORT = 15_053;

/** Reads the options of istio-iptables; what is left out is as in `defaults`. Throws a MeshpathError INPUT_INVALID. */
export function readIstioSidecarOptions(values: OptionValues, defaults: IstioSidecarOptions): IstioSidecarOptions {
  const read = <T>(name: string, reader: (option: string, text: string) => T, fallback: T): T => {
    const text = values.text(name);
    return text === undefined ? fallback : reader(name, text);
  };
  const starOr = <T>(reader: (option: string, text: string) => T) => (option: string, text: string): '*' | T => (text === '*' ? '*' : reader(option, text));
  const owners = (option: string, text: string): readonly string[] => readOwners(option, text, { names: true });
  const proxyUids = read('proxy-uid', owners, defaults.proxyUids);
  return {
    envoyPort: read('envoy-port', readPort, defaults.envoyPort),
    inboundCapturePort: read('inbound-capture-port', readPort, defaults.inboundCapturePort),
    inboundTunnelPort: read('inbound-tunnel-port', readPort, defaults.inboundTunnelPort),
    proxyUids,
    proxyGids: read('proxy-gid', owners, proxyUids),
    interceptionMode: read('istio-inbound-interception-mode', (option, text) => readChoice(option, text, ['REDIRECT', 'TPROXY'] as const), defaults.interceptionMode),
    tproxyMark: read('istio-inbound-tproxy-mark', readUint32, defaults.tproxyMark),
    tproxyRouteTable: read('istio-inbound-tproxy-route-table', readUint32, defaults.tproxyRouteTable),
    inboundPorts: read('istio-inbound-ports', starOr(readPorts), defaults.inboundPorts),
    excludedInboundPorts: read('istio-local-exclude-ports', readPorts, defaults.excludedInboundPorts),
    excludedInterfaces: read('istio-exclude-interfaces', readInterfaces, defaults.excludedInterfaces),
    outboundRanges: read('istio-service-cidr', starOr(readRanges), defaults.outboundRanges),
    excludedOutboundRanges: read('istio-service-exclude-cidr', readRanges, defaults.excludedOutboundRanges),
    outboundPorts: read('istio-outbound-ports', readPorts, defaults.outboundPorts),
    excludedOutboundPorts: read('istio-local-outbound-ports-exclude', readPorts, defaults.excludedOutboundPorts),
    virtualInterfaces: read('kube-virt-interfaces', readInterfaces, defaults.virtualInterfaces),
    ownerGroups: read('istio-outbound-owner-groups', starOr(readOwnerGroups), defaults.ownerGroups),
    excludedOwnerGroups: read('istio-outbound-owner-groups-exclude', owners, defaults.excludedOwnerGroups),
    ipv4LoopbackRange: read('istio-outbound-ipv4-loopback-cidr', (option, text) => readRange(option, text, { length: 'required' }).text, defaults.ipv4LoopbackRange),
    capturedDns: values.flag('redirect-dns') ? readCapturedDns(values) : defaults.capturedDns,
    dropInvalid: values.flag('drop-invalid') || defaults.dropInvalid,
    ipv6: values.flag('dual-stack') || defaults.ipv6,
  };
}

/**
 * Gives the rules that istio-iptables installs for a sidecar, byte for byte as it gives them to iptables-restore
 * (istio/istio, tools/istio-iptables/pkg/capture/run.go and builder/iptables_builder_impl.go).
 */
export function generateIstioSidecarRules(options: IstioSidecarOptions): MeshRules {
  const notes: string[] = [];
  if (options.capturedDns !== null && options.capturedDns.length === 0) {
    notes.push('DNS is not captured: istio-iptables was given no name servers and not told to capture all DNS (--capture-all-dns).');
  }
  return {
    ipv4: new SidecarRules(options, 'ipv4').text(),
    ipv6: options.ipv6 ? new SidecarRules(options, 'ipv6').text() : '',
    setup: setupCommands(options),
    commands: [],
    notes,
  };
}

/** The rules of one family, in the order in which the tool makes them. */
class SidecarRules {
  readonly #rules = new RuleList();
  readonly #options: IstioSidecarOptions;
  readonly #family: RuleFamily;
  readonly #loopback: string;
  readonly #passthrough: string;
  readonly #dns: boolean;

  constructor(options: IstioSidecarOptions, family: RuleFamily) {
    this.#options = options;
    this.#family = family;
    this.#loopback = family === 'ipv4' ? options.ipv4LoopbackRange : '::1/128';
    this.#passthrough = family === 'ipv4' ? '127.0.0.6/32' : '::6/128';
    this.#dns = options.capturedDns !== null && options.capturedDns.length > 0;
    this.#addExcludedInterfaces();
    this.#addDropInvalid();
    this.#addInbound();
    this.#addOutbound();
    if (options.interceptionMode === 'TPROXY') {
      this.#addTproxyMarks();
    }
  }

  text(): string {
    return this.#rules.restoreText(['filter', 'mangle', 'nat', 'raw']);
  }

  #addExcludedInterfaces(): void {
    const { excludedInterfaces, virtualInterfaces, interceptionMode } = this.#options;
    const tables: readonly TableName[] = interceptionMode === 'TPROXY' ? ['nat', 'mangle'] : ['nat'];
    for (const table of tables) {
      for (const name of excludedInterfaces) {
        this.#rules.append(table, 'PREROUTING', `-i ${name} -j RETURN`);
        this.#rules.append(table, 'OUTPUT', `-o ${name} -j RETURN`);
      }
    }
    for (const name of virtualInterfaces) {
      this.#rules.insert('nat', 'PREROUTING', 1, `-i ${name} -j RETURN`);
    }
  }

  #addDropInvalid(): void {
    if (this.#options.dropInvalid) {
      this.#rules.append('mangle', 'PREROUTING', '-m conntrack --ctstate INVALID -j ISTIO_DROP');
      this.#rules.append('mangle', 'ISTIO_DROP', '-j DROP');
    }
  }

  #addInbound(): void {
    const { envoyPort, inboundCapturePort, inboundTunnelPort, interceptionMode, tproxyMark, inboundPorts, excludedInboundPorts } = this.#options;
    this.#rules.append('nat', 'ISTIO_INBOUND', `-p tcp --dport ${inboundTunnelPort} -j RETURN`);
    this.#rules.append('nat', 'ISTIO_REDIRECT', `-p tcp -j REDIRECT --to-ports ${envoyPort}`);
    this.#rules.append('nat', 'ISTIO_IN_REDIRECT', `-p tcp -j REDIRECT --to-ports ${inboundCapturePort}`);
    if (inboundPorts !== '*' && inboundPorts.length === 0) {
      return;
    }
    const isTproxy = interceptionMode === 'TPROXY';
    const table = isTproxy ? 'mangle' : 'nat';
    if (isTproxy) {
      this.#rules.append('mangle', 'ISTIO_DIVERT', `-j MARK --set-mark ${tproxyMark}`);
      this.#rules.append('mangle', 'ISTIO_DIVERT', '-j ACCEPT');
      this.#rules.append('mangle', 'ISTIO_TPROXY', `! -d ${this.#loopback} -p tcp -j TPROXY --tproxy-mark ${tproxyMark}/0xffffffff --on-port ${inboundCapturePort}`);
    }
    this.#rules.append(table, 'PREROUTING', '-p tcp -j ISTIO_INBOUND');
    for (const port of inboundPorts === '*' ? excludedInboundPorts : []) {
      this.#rules.append(table, 'ISTIO_INBOUND', `-p tcp --dport ${port} -j RETURN`);
    }
    for (const which of inboundPorts === '*' ? [''] : inboundPorts.map((port) => ` --dport ${port}`)) {
      if (isTproxy) {
        this.#rules.append('mangle', 'ISTIO_INBOUND', `-p tcp${which} -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT`);
      }
      this.#rules.append(table, 'ISTIO_INBOUND', `-p tcp${which} -j ${isTproxy ? 'ISTIO_TPROXY' : 'ISTIO_IN_REDIRECT'}`);
    }
  }

  #addOutbound(): void {
    const { excludedOutboundPorts, excludedOutboundRanges, outboundPorts, inboundTunnelPort, proxyUids, proxyGids } = this.#options;
    this.#rules.append('nat', 'OUTPUT', '-j ISTIO_OUTPUT');
    for (const port of excludedOutboundPorts) {
      this.#output(`-p tcp --dport ${port} -j RETURN`);
      this.#output(`-p udp --dport ${port} -j RETURN`);
    }
    this.#output(`-o lo -s ${this.#passthrough} -j RETURN`);
    for (const uid of proxyUids) {
      this.#addOwner(`--uid-owner ${uid}`, this.#dns ? `-m multiport ! --dports 53,${inboundTunnelPort}` : `! --dport ${inboundTunnelPort}`);
    }
    for (const gid of proxyGids) {
      this.#addOwner(`--gid-owner ${gid}`, `! --dport ${inboundTunnelPort}`);
    }
    this.#addOwnerGroups();
    this.#addDns();
    this.#output(`-d ${this.#loopback} -j RETURN`);
    for (const range of excludedOutboundRanges.filter(({ family }) => family === this.#family)) {
      this.#output(`-d ${range.text} -j RETURN`);
    }
    for (const port of outboundPorts) {
      this.#output(`-p tcp --dport ${port} -j ISTIO_REDIRECT`);
    }
    this.#addOutboundRanges();
  }

  /** What the sidecar itself sends: to its own pod through the inbound side, all else as it is. */
  #addOwner(owner: string, ports: string): void {
    this.#output(`-o lo ! -d ${this.#loopback} -p tcp ${ports} -m owner ${owner} -j ISTIO_IN_REDIRECT`);
    const { outboundRanges } = this.#options;
    if (outboundRanges === '*' || !outboundRanges.some(({ address }) => isLoopbackAddress(address))) {
      this.#output(`-o lo${this.#dns ? ' -p tcp ! --dport 53' : ''} -m owner ! ${owner} -j RETURN`);
    }
    this.#output(`-m owner ${owner} -j RETURN`);
  }

  #addOwnerGroups(): void {
    const { ownerGroups, excludedOwnerGroups } = this.#options;
    if (ownerGroups === '*') {
      excludedOwnerGroups.forEach((group) => {
        this.#output(`-m owner --gid-owner ${group} -j RETURN`);
      });
      return;
    }
    this.#output([...ownerGroups.map((group) => `-m owner ! --gid-owner ${group}`), '-j RETURN'].join(' '));
  }

  #addOutboundRanges(): void {
    const { outboundRanges, virtualInterfaces } = this.#options;
    if (outboundRanges === '*') {
      this.#output('-j ISTIO_REDIRECT');
      for (const name of virtualInterfaces) {
        this.#rules.insert('nat', 'PREROUTING', 1, `-i ${name} -j ISTIO_REDIRECT`);
      }
      return;
    }
    for (const { text } of outboundRanges.filter(({ family }) => family === this.#family)) {
      for (const name of virtualInterfaces) {
        this.#rules.insert('nat', 'PREROUTING', 1, `-i ${name} -d ${text} -j ISTIO_REDIRECT`);
      }
      this.#output(`-d ${text} -j ISTIO_REDIRECT`);
    }
  }

  /** DNS goes to the agent; each side of it has a conntrack zone of its own, so that ports never clash. */
  #addDns(): void {
    const { capturedDns, proxyUids, proxyGids } = this.#options;
    if (capturedDns === null || !this.#dns) {
      return;
    }
    this.#rules.append('raw', 'OUTPUT', '-j ISTIO_OUTPUT_DNS');
    const servers = capturedDns === 'all' ? [null] : capturedDns.filter(({ family }) => family === this.#family).map(({ text }) => `${text}/${this.#family === 'ipv4' ? 32 : 128}`);
    if (servers.length > 0) {
      this.#output('-j ISTIO_OUTPUT_DNS');
    }
    for (const [protocol, target] of [['tcp', '--to-ports'], ['udp', '--to-port']] as const) {
      for (const server of servers) {
        this.#rules.append('nat', 'ISTIO_OUTPUT_DNS', `-p ${protocol} --dport 53${server === null ? '' : ` -d ${server}`} -j REDIRECT ${target} ${DNS_PORT}`);
      }
    }
    for (const owner of [...proxyUids.map((uid) => `--uid-owner ${uid}`), ...proxyGids.map((gid) => `--gid-owner ${gid}`)]) {
      this.#rules.append('raw', 'ISTIO_OUTPUT_DNS', `-p udp --dport 53 -m owner ${owner} -j CT --zone 1`);
      this.#rules.append('raw', 'ISTIO_OUTPUT_DNS', `-p udp --sport ${DNS_PORT} -m owner ${owner} -j CT --zone 2`);
    }
    if (servers.length > 0) {
      this.#rules.append('raw', 'PREROUTING', '-j ISTIO_INBOUND');
    }
    for (const server of servers) {
      this.#rules.append('raw', 'ISTIO_OUTPUT_DNS', `-p udp --dport 53${server === null ? '' : ` -d ${server}`} -j CT --zone 2`);
      this.#rules.append('raw', 'ISTIO_INBOUND', `-p udp --sport 53${server === null ? '' : ` -s ${server}`} -j CT --zone 1`);
    }
  }

  #addTproxyMarks(): void {
    const { tproxyMark, proxyUids, proxyGids } = this.#options;
    this.#rules.append('mangle', 'PREROUTING', `-p tcp -m mark --mark ${tproxyMark} -j CONNMARK --save-mark`);
    this.#rules.append('mangle', 'OUTPUT', `-p tcp -o lo -m mark --mark ${tproxyMark} -j RETURN`);
    for (const owner of [...proxyUids.map((uid) => `--uid-owner ${uid}`), ...proxyGids.map((gid) => `--gid-owner ${gid}`)]) {
      this.#rules.append('mangle', 'OUTPUT', `! -d ${this.#loopback} -p tcp -o lo -m owner ${owner} -j MARK --set-mark ${OUTBOUND_MARK}`);
    }
    this.#rules.append('mangle', 'OUTPUT', `-p tcp -m connmark --mark ${tproxyMark} -j CONNMARK --restore-mark`);
    this.#rules.insert('mangle', 'ISTIO_INBOUND', 1, `-p tcp -m mark --mark ${tproxyMark} -j RETURN`);
    this.#rules.insert('mangle', 'ISTIO_INBOUND', 2, `-p tcp -s ${this.#passthrough} -i lo -j RETURN`);
    this.#rules.insert('mangle', 'ISTIO_INBOUND', 3, `-p tcp -i lo -m mark ! --mark ${OUTBOUND_MARK} -j RETURN`);
  }

  #output(rule: string): void {
    this.#rules.append('nat', 'ISTIO_OUTPUT', rule);
  }
}

/** configureIPv6Addresses and configureTProxyRoutes of tools/istio-iptables/pkg/capture. */
function setupCommands({ inboundPorts, interceptionMode, tproxyMark, tproxyRouteTable, ipv6 }: IstioSidecarOptions): readonly string[] {
  const commands = ipv6 ? ['ip -6 addr add ::6/128 dev lo'] : [];
  if (interceptionMode === 'TPROXY' && (inboundPorts === '*' || inboundPorts.length > 0)) {
    for (const family of ipv6 ? ['-4', '-6'] : ['-4']) {
      commands.push(`ip ${family} rule add fwmark ${tproxyMark} lookup ${tproxyRouteTable}`, `ip ${family} route add local default dev lo table ${tproxyRouteTable}`);
    }
  }
  return commands;
}

function readOwnerGroups(option: string, text: string): readonly string[] {
  if (splitList(option, text).length > MAX_OWNER_GROUPS) {
    // All of them go into one rule.
    throw optionError(option, text, `a list of at most ${MAX_OWNER_GROUPS} groups`);
  }
  return readOwners(option, text, { names: true });
}

function readCapturedDns(values: OptionValues): 'all' | readonly AddressRange[] {
  const servers = values.text('dns-servers');
  return values.flag('capture-all-dns') ? 'all' : readAddresses('dns-servers', servers ?? '');
}
