import { inputError } from '../../agent/protocol/errors.ts';
import { optionError, readAddresses, readChoice, readInterface, readPort, readPorts, readRange, readUint32, splitList } from './meshOptions.ts';
import type { AddressRange, MeshOption, OptionValues } from './meshOptions.ts';
import type { MeshRules, RuleFamily } from './meshRules.ts';
import { formatRestoreBlock, RuleList } from './meshRules.ts';
import type { MeshTool } from './meshTool.ts';

/** Packets to a port of a user that are left alone on the way out. */
export interface KumaUserExclusion {
  readonly protocol: 'tcp' | 'udp';
  /** As multiport writes them: `53,3000:5000`. */
  readonly ports: string;
  /** `106` or `106:108` */
  readonly uids: string;
}

/** What `kumactl install transparent-proxy` is told. */
export interface KumaOptions {
  readonly redirectInbound: boolean;
  readonly inboundPort: number;
  readonly outboundPort: number;
  readonly excludedInboundPorts: readonly number[];
  readonly excludedOutboundPorts: readonly number[];
  readonly excludedInboundRanges: readonly AddressRange[];
  readonly excludedOutboundRanges: readonly AddressRange[];
  readonly excludedOutboundUsers: readonly KumaUserExclusion[];
  readonly proxyUid: number;
  /** Null: DNS is left alone; `all`, or the servers of /etc/resolv.conf. */
  readonly capturedDns: 'all' | readonly AddressRange[] | null;
  readonly dnsPort: number;
  readonly splitDnsZones: boolean;
  /** Interfaces of virtual networks with their own range. */
  readonly virtualNetworks: readonly { readonly interface: string; readonly range: AddressRange }[];
  readonly dropInvalid: boolean;
  readonly log: boolean;
  readonly comments: boolean;
  readonly insertInbound: boolean;
  readonly insertOutbound: boolean;
  readonly ipv6: boolean;
}

export const KUMA_DEFAULTS: KumaOptions = {
  redirectInbound: true,
  inboundPort: 15_006,
  outboundPort: 15_001,
  excludedInboundPorts: [],
  excludedOutboundPorts: [],
  excludedInboundRanges: [],
  excludedOutboundRanges: [],
  excludedOutboundUsers: [],
  proxyUid: 5678,
  capturedDns: null,
  dnsPort: 15_053,
  splitDnsZones: true,
  virtualNetworks: [],
  dropInvalid: false,
  log: false,
  comments: true,
  insertInbound: false,
  insertOutbound: false,
  ipv6: true,
};

const OPTIONS: readonly MeshOption[] = [
  { name: 'ip-family-mode', type: 'string', valueName: 'MODE', description: 'dualstack or ipv4 (dualstack).' },
  { name: 'redirect-inbound', type: 'boolean', description: 'Capture what comes in; on unless --redirect-inbound=false, as for gateways.' },
  { name: 'redirect-inbound-port', type: 'string', valueName: 'PORT', description: 'Where incoming connections are sent (15006).' },
  { name: 'redirect-outbound-port', type: 'string', valueName: 'PORT', description: 'Where outgoing connections are sent (15001).' },
  { name: 'exclude-inbound-ports', type: 'string', valueName: 'PORT,…', description: 'Ports that are left alone on the way in.' },
  { name: 'exclude-outbound-ports', type: 'string', valueName: 'PORT,…', description: 'Ports that are left alone on the way out.' },
  { name: 'exclude-inbound-ips', type: 'string', valueName: 'ADDRESS[/N],…', multiple: true, description: 'Sources that are left alone on the way in.' },
  { name: 'exclude-outbound-ips', type: 'string', valueName: 'ADDRESS[/N],…', multiple: true, description: 'Destinations that are left alone on the way out.' },
  { name: 'exclude-outbound-ports-for-uids', type: 'string', valueName: '[PROTOCOL:][PORTS:]UIDS', multiple: true, description: 'Ports that are left alone for a user or a range of users: tcp:53,3000-5000:106-108.' },
  { name: 'kuma-dp-user', type: 'string', valueName: 'UID', description: 'The number of the user that kuma-dp runs as (5678).' },
  { name: 'redirect-dns', type: 'boolean', description: 'Send DNS to kuma-dp where it goes to a server of --dns-servers.' },
  { name: 'redirect-all-dns-traffic', type: 'boolean', description: 'Send DNS to kuma-dp whichever server it goes to.' },
  { name: 'redirect-dns-port', type: 'string', valueName: 'PORT', description: 'Where DNS is sent (15053).' },
  { name: 'dns-servers', type: 'string', valueName: 'ADDRESS,…', description: 'With --redirect-dns: the name servers that /etc/resolv.conf has.' },
  { name: 'skip-dns-conntrack-zone-split', type: 'boolean', description: 'Leave out the rules of table raw that give DNS its own conntrack zones.' },
  { name: 'vnet', type: 'string', valueName: 'NAME:CIDR', multiple: true, description: 'A virtual network: docker0:172.17.0.0/16, br+:172.18.0.0/16.' },
  { name: 'drop-invalid-packets', type: 'boolean', description: 'Drop what conntrack calls INVALID.' },
  { name: 'iptables-logs', type: 'boolean', description: 'Log packets by the kernel.' },
  { name: 'disable-comments', type: 'boolean', description: 'Leave the comments out of the rules.' },
  { name: 'redirect-inbound-insert-instead-of-append', type: 'boolean', description: 'Put the jump of PREROUTING first.' },
  { name: 'redirect-outbound-insert-instead-of-append', type: 'boolean', description: 'Put the jump of OUTPUT first.' },
];

const COMMENT_PREFIX = 'kuma/mesh/transparent/proxy';
/** kumactl cuts comments here; a rule takes 255 bytes and a NUL (xt_comment.h). */
const MAX_COMMENT_LENGTH = 254;

export const KUMA_TOOL: MeshTool = {
  name: 'kuma',
  summary: 'The rules of kumactl install transparent-proxy.',
  description: [
    'The options are those of kumactl, with its defaults. What it reads of the machine is given here: --kuma-dp-user takes a number, since names cannot be looked up, and --dns-servers stands for /etc/resolv.conf. The machine is taken to have no chain DOCKER_OUTPUT, to have a loopback device called lo and iptables with conntrack.',
  ],
  options: OPTIONS,
  ipv6Option: null,
  generate: (values) => generateKumaRules(readKumaOptions(values)),
};

/**
 * Gives the rules that `kumactl install transparent-proxy` installs, as it gives them to `iptables-restore --noflush`
 * (kumahq/kuma, pkg/transparentproxy/iptables/builder).
 */
export function generateKumaRules(options: KumaOptions): MeshRules {
  return {
    ipv4: new KumaRules(options, 'ipv4').text(),
    ipv6: options.ipv6 ? new KumaRules(options, 'ipv6').text() : '',
    setup: options.ipv6 ? ['ip -6 addr add ::6/128 dev lo'] : [],
    commands: [],
    notes: [],
  };
}

/** The rules of one family. */
class KumaRules {
  readonly #rules = new RuleList();
  readonly #options: KumaOptions;
  readonly #family: RuleFamily;
  readonly #localhost: string;
  readonly #passthrough: string;
  readonly #uid: string;
  /** What is captured of DNS: null stands for all servers. Empty: nothing. */
  readonly #dnsServers: readonly (string | null)[];
  /** Places at which rules were put into a chain so far. */
  readonly #positions = new Map<string, number>();

  constructor(options: KumaOptions, family: RuleFamily) {
    this.#options = options;
    this.#family = family;
    this.#localhost = family === 'ipv4' ? '127.0.0.1/32' : '::1/128';
    this.#passthrough = family === 'ipv4' ? '127.0.0.6/32' : '::6/128';
    this.#uid = `-m owner --uid-owner ${options.proxyUid}`;
    const { capturedDns } = options;
    this.#dnsServers = capturedDns === 'all' ? [null] : (capturedDns ?? []).filter((server) => server.family === family).map(({ text }) => text);
    this.#addRaw();
    this.#addPrerouting();
    this.#addOutput();
    this.#addInbound();
    this.#addOutbound();
    this.#addRedirects();
    if (options.dropInvalid) {
      this.#append('mangle', 'PREROUTING', '-m conntrack --ctstate INVALID -j DROP', 'drop packets in the INVALID state to prevent potential issues with malformed or out-of-order packets');
    }
  }

  text(): string {
    const chains = ['INBOUND', 'OUTBOUND', 'INBOUND_REDIRECT', 'OUTBOUND_REDIRECT'].map((name) => `KUMA_MESH_${name}`);
    return [
      formatRestoreBlock('raw', [], this.#rules.lines('raw')),
      formatRestoreBlock('nat', chains, this.#rules.lines('nat')),
      formatRestoreBlock('mangle', [], this.#rules.lines('mangle')),
    ].join('');
  }

  #addRaw(): void {
    const { splitDnsZones, dnsPort, proxyUid } = this.#options;
    if (!splitDnsZones || this.#dnsServers.length === 0) {
      return;
    }
    for (const server of this.#dnsServers) {
      // The tool matches the destination here too, although answers carry the server as their source.
      const where = server === null ? '' : `-d ${server} `;
      this.#append('raw', 'PREROUTING', `${where}-p udp --sport 53 -j CT --zone 1`, `assign connection tracking zone 1 to ${server === null ? 'all DNS responses' : `DNS responses from ${server}`}`);
    }
    this.#append('raw', 'OUTPUT', `-p udp --dport 53 ${this.#uid} -j CT --zone 1`, `assign connection tracking zone 1 to DNS traffic from the kuma-dp user (UID ${proxyUid})`);
    this.#append('raw', 'OUTPUT', `-p udp --sport ${dnsPort} ${this.#uid} -j CT --zone 2`, 'assign connection tracking zone 2 to DNS responses from the kuma-dp DNS proxy');
    for (const server of this.#dnsServers) {
      const where = server === null ? '' : `-d ${server} `;
      this.#append('raw', 'OUTPUT', `${where}-p udp --dport 53 -j CT --zone 2`, `assign connection tracking zone 2 to ${server === null ? 'all DNS requests' : `DNS requests destined for ${server}`}`);
    }
  }

  #addPrerouting(): void {
    const { log, insertInbound, dnsPort, outboundPort } = this.#options;
    if (log) {
      this.#append('nat', 'PREROUTING', '-j LOG --log-prefix PREROUTING: --log-level 7', 'log matching packets using kernel logging');
    }
    const networks = this.#virtualNetworks();
    if (networks.size === 0 && !insertInbound) {
      this.#append('nat', 'PREROUTING', '-p tcp -j KUMA_MESH_INBOUND', 'redirect inbound TCP traffic to our custom chain for processing');
      return;
    }
    for (const name of [...networks.keys()].toSorted()) {
      const range = networks.get(name) ?? '';
      this.#insert('PREROUTING', `-i ${name} -m udp -p udp --dport 53 -j REDIRECT --to-ports ${dnsPort}`, `redirect DNS requests on interface ${name} to the kuma-dp DNS proxy (listening on port ${dnsPort})`);
      this.#insert('PREROUTING', `! -d ${range} -i ${name} -p tcp -j REDIRECT --to-ports ${outboundPort}`, `redirect TCP traffic on interface ${name}, excluding destination ${range}, to the envoy's outbound passthrough port ${outboundPort}`);
    }
    this.#insert('PREROUTING', '-p tcp -j KUMA_MESH_INBOUND', 'redirect remaining TCP traffic to our custom chain for processing');
  }

  #addOutput(): void {
    const { log, excludedOutboundUsers, excludedOutboundRanges, dnsPort, insertOutbound } = this.#options;
    if (log) {
      this.#insert('OUTPUT', '-j LOG --log-prefix OUTPUT: --log-level 7', 'log matching packets using kernel logging');
    }
    const exclusions = [
      ...excludedOutboundUsers.map(({ protocol, ports, uids }) => `-m multiport -p ${protocol} --dport ${ports} -m owner --uid-owner ${uids}`),
      ...this.#ofFamily(excludedOutboundRanges).map(({ text }) => `-d ${text}`),
    ];
    for (const exclusion of exclusions) {
      this.#insert('OUTPUT', `${exclusion} -j RETURN`, 'skip further processing for configured IP addresses, ports and UIDs');
    }
    if (this.#dnsServers.length > 0) {
      this.#insert('OUTPUT', `-p udp --dport 53 ${this.#uid} -j RETURN`, 'return early for DNS traffic from kuma-dp');
    }
    for (const server of this.#dnsServers) {
      const where = server === null ? '' : `-d ${server} `;
      this.#insert('OUTPUT', `${where}-p udp --dport 53 -j REDIRECT --to-ports ${dnsPort}`, `redirect ${server === null ? 'all DNS requests' : `DNS requests to ${server}`} to the kuma-dp DNS proxy (listening on port ${dnsPort})`);
    }
    const jump = ['-p tcp -j KUMA_MESH_OUTBOUND', 'redirect outbound TCP traffic to our custom chain for processing'] as const;
    if (insertOutbound) {
      this.#insert('OUTPUT', ...jump);
    } else {
      this.#append('nat', 'OUTPUT', ...jump);
    }
  }

  #addInbound(): void {
    const { redirectInbound, excludedInboundRanges, excludedInboundPorts } = this.#options;
    if (!redirectInbound) {
      this.#append('nat', 'KUMA_MESH_INBOUND', '-p tcp -j RETURN', 'inbound traffic redirection is disabled');
      return;
    }
    for (const { text } of this.#ofFamily(excludedInboundRanges)) {
      this.#append('nat', 'KUMA_MESH_INBOUND', `-s ${text} -j RETURN`, 'skip further processing for configured IP address');
    }
    for (const port of excludedInboundPorts) {
      this.#append('nat', 'KUMA_MESH_INBOUND', `-p tcp --dport ${port} -j RETURN`, `exclude inbound traffic from port ${port} from redirection`);
    }
    this.#append('nat', 'KUMA_MESH_INBOUND', '-p tcp -j KUMA_MESH_INBOUND_REDIRECT', 'redirect all inbound traffic to the custom chain for processing');
  }

  #addOutbound(): void {
    const { excludedOutboundPorts, dnsPort, proxyUid } = this.#options;
    const add = (rule: string, comment: string): void => {
      this.#append('nat', 'KUMA_MESH_OUTBOUND', rule, comment);
    };
    for (const port of excludedOutboundPorts) {
      add(`-p tcp --dport ${port} -j RETURN`, `exclude outbound traffic from port ${port} from redirection`);
    }
    const notDns = this.#dnsServers.length > 0 ? ' ! --dport 53' : '';
    add(`-s ${this.#passthrough} -o lo -j RETURN`, `prevent traffic loops by ensuring traffic from the sidecar proxy (using ${this.#passthrough}) to loopback interface is not redirected again`);
    add(
      `-p tcp${notDns} -o lo ! -d ${this.#localhost} ${this.#uid} -j KUMA_MESH_INBOUND_REDIRECT`,
      `redirect outbound TCP traffic (except to DNS port 53) destined for loopback interface, but not targeting address ${this.#localhost}, and owned by UID ${proxyUid} (kuma-dp user) to KUMA_MESH_INBOUND_REDIRECT chain for proper handling`,
    );
    add(`-p tcp${notDns} -o lo -m owner ! --uid-owner ${proxyUid} -j RETURN`, `return outbound TCP traffic (except to DNS port 53) destined for loopback interface, owned by any UID other than ${proxyUid} (kuma-dp user)`);
    add(`${this.#uid} -j RETURN`, `return outbound traffic owned by UID ${proxyUid} (kuma-dp user)`);
    for (const server of this.#dnsServers) {
      add(
        `${server === null ? '' : `-d ${server} `}-p tcp --dport 53 -j REDIRECT --to-ports ${dnsPort}`,
        `redirect ${server === null ? 'all DNS requests sent via TCP' : `DNS requests sent via TCP to ${server}`} to kuma-dp DNS proxy (listening on port ${dnsPort})`,
      );
    }
    add(`-d ${this.#localhost} -j RETURN`, `return traffic destined for localhost (${this.#localhost}) to avoid redirection`);
    add('-j KUMA_MESH_OUTBOUND_REDIRECT', 'redirect all other outbound traffic to our custom chain for further processing');
  }

  #addRedirects(): void {
    const { inboundPort, outboundPort } = this.#options;
    for (const [direction, port] of [['INBOUND', inboundPort], ['OUTBOUND', outboundPort]] as const) {
      this.#append('nat', `KUMA_MESH_${direction}_REDIRECT`, `-p tcp -j REDIRECT --to-ports ${port}`, `redirect TCP traffic to envoy (port ${port})`);
    }
  }

  /** Names to ranges; of two networks on one interface the later counts, as in the tool. */
  #virtualNetworks(): ReadonlyMap<string, string> {
    return new Map(this.#options.virtualNetworks.filter(({ range }) => range.family === this.#family).map(({ interface: name, range }) => [name, range.text]));
  }

  #ofFamily(ranges: readonly AddressRange[]): readonly AddressRange[] {
    return ranges.filter(({ family }) => family === this.#family);
  }

  #append(table: 'raw' | 'nat' | 'mangle', chain: string, rule: string, comment: string): void {
    this.#rules.append(table, chain, this.#withComment(rule, comment));
  }

  /** Rules that are put in come one after the other from the first place on. */
  #insert(chain: 'PREROUTING' | 'OUTPUT', rule: string, comment: string): void {
    const position = (this.#positions.get(chain) ?? 0) + 1;
    this.#positions.set(chain, position);
    this.#rules.insert('nat', chain, position, this.#withComment(rule, comment));
  }

  #withComment(rule: string, comment: string): string {
    return this.#options.comments ? `-m comment --comment "${`${COMMENT_PREFIX}/${comment}`.slice(0, MAX_COMMENT_LENGTH)}" ${rule}` : rule;
  }
}

function readKumaOptions(values: OptionValues): KumaOptions {
  const one = <T>(name: string, reader: (option: string, text: string) => T, fallback: T): T => {
    const text = values.text(name);
    return text === undefined ? fallback : reader(name, text);
  };
  const many = <T>(name: string, reader: (option: string, text: string) => readonly T[]): readonly T[] => values.texts(name).flatMap((text) => reader(name, text));
  return {
    redirectInbound: values.text('redirect-inbound') !== 'false',
    inboundPort: one('redirect-inbound-port', readPort, KUMA_DEFAULTS.inboundPort),
    outboundPort: one('redirect-outbound-port', readPort, KUMA_DEFAULTS.outboundPort),
    excludedInboundPorts: one('exclude-inbound-ports', readPorts, []),
    excludedOutboundPorts: one('exclude-outbound-ports', readPorts, []),
    excludedInboundRanges: many('exclude-inbound-ips', readAddressRanges),
    excludedOutboundRanges: many('exclude-outbound-ips', readAddressRanges),
    excludedOutboundUsers: many('exclude-outbound-ports-for-uids', readUserExclusions),
    proxyUid: one('kuma-dp-user', readUint32, KUMA_DEFAULTS.proxyUid),
    capturedDns: readCapturedDns(values),
    dnsPort: one('redirect-dns-port', readPort, KUMA_DEFAULTS.dnsPort),
    splitDnsZones: !values.flag('skip-dns-conntrack-zone-split'),
    virtualNetworks: values.texts('vnet').map(readVirtualNetwork),
    dropInvalid: values.flag('drop-invalid-packets'),
    log: values.flag('iptables-logs'),
    comments: !values.flag('disable-comments'),
    insertInbound: values.flag('redirect-inbound-insert-instead-of-append'),
    insertOutbound: values.flag('redirect-outbound-insert-instead-of-append'),
    ipv6: one('ip-family-mode', (option, text) => readChoice(option, text, ['dualstack', 'ipv4'] as const), 'dualstack') === 'dualstack',
  };
}

function readAddressRanges(option: string, text: string): readonly AddressRange[] {
  return splitList(option, text).map((entry) => readRange(option, entry, { length: 'optional' }));
}

function readCapturedDns(values: OptionValues): KumaOptions['capturedDns'] {
  const isAll = values.flag('redirect-all-dns-traffic');
  if (isAll && values.flag('redirect-dns')) {
    throw inputError('DNS can be captured in one way only.', '--redirect-dns and --redirect-all-dns-traffic were both given, which kumactl refuses.', 'Give one of them.');
  }
  if (isAll) {
    return 'all';
  }
  return values.flag('redirect-dns') ? readAddresses('dns-servers', values.text('dns-servers') ?? '') : null;
}

function readVirtualNetwork(text: string): KumaOptions['virtualNetworks'][number] {
  const colon = text.indexOf(':');
  if (colon < 0) {
    throw optionError('vnet', text, 'an interface and its network, such as docker0:172.17.0.0/16');
  }
  return { interface: readInterface('vnet', text.slice(0, colon)), range: readRange('vnet', text.slice(colon + 1), { length: 'required' }) };
}

/** Reads `[PROTOCOL:][PORTS:]UIDS` (parseExcludePortsForUIDs of pkg/transparentproxy/config). */
function readUserExclusions(option: string, text: string): readonly KumaUserExclusion[] {
  const parts = text.split(':', 4);
  const uids = parts.at(-1) ?? '';
  const ports = parts.length > 1 ? (parts.at(-2) ?? '') : '';
  const protocols = parts.length === 3 ? (parts[0] ?? '') : '';
  const isNumberList = (list: string): boolean => list.split(',').every((entry) => /^\d{1,5}(?:-\d{1,5})?$/.test(entry) && entry.split('-').every((number) => Number(number) <= 65_535));
  const portList = ports === '' || ports === '*' ? '1-65535' : ports;
  const protocolList = protocols === '' || protocols === '*' ? ['tcp', 'udp'] : protocols.split(',', 9).map((protocol) => protocol.trim().toLowerCase());
  if (parts.length > 3 || !isNumberList(portList) || uids.includes(',') || !isNumberList(uids)) {
    throw optionError(option, text, '[PROTOCOL:][PORTS:]UIDS such as tcp:53,3000-5000:106-108');
  }
  return protocolList.map((protocol) => ({
    protocol: readChoice(option, protocol, ['tcp', 'udp'] as const),
    ports: portList.replaceAll('-', ':'),
    uids: uids.replaceAll('-', ':'),
  }));
}
