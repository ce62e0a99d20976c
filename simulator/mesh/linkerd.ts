import { readChoice, readPort, readPorts, readRanges, readUint32, splitList, optionError } from './meshOptions.ts';
import type { AddressRange, MeshOption, OptionValues } from './meshOptions.ts';
import type { MeshRules, RuleFamily } from './meshRules.ts';
import { RuleList } from './meshRules.ts';
import type { MeshTool } from './meshTool.ts';

/** What linkerd2-proxy-init is told (proxy-init/cmd/root.go). */
export interface LinkerdOptions {
  readonly incomingProxyPort: number;
  readonly outgoingProxyPort: number;
  /** Null: no rule leaves the proxy's own packets alone. */
  readonly proxyUid: number | null;
  readonly proxyGid: number | null;
  /** Ports to capture on the way in; empty: all. */
  readonly portsToRedirect: readonly number[];
  /** `80` or `25:27`, as iptables writes ranges. */
  readonly inboundPortsToIgnore: readonly string[];
  readonly outboundPortsToIgnore: readonly string[];
  /** Sources whose connections are left alone on the way in. */
  readonly subnetsToIgnore: readonly AddressRange[];
  readonly iptablesMode: 'legacy' | 'nft' | 'plain';
  /** Have iptables wait for its lock. */
  readonly wait: boolean;
  readonly ipv6: boolean;
}

/** What Linkerd's injector gives (linkerd2, charts/partials/templates/_proxy-init.tpl with the chart's values). */
export const LINKERD_INJECTED: LinkerdOptions = {
  incomingProxyPort: 4143,
  outgoingProxyPort: 4140,
  proxyUid: 2102,
  proxyGid: null,
  portsToRedirect: [],
  inboundPortsToIgnore: ['4190', '4191', '4567', '4568'],
  outboundPortsToIgnore: ['4567', '4568'],
  subnetsToIgnore: [],
  iptablesMode: 'legacy',
  wait: false,
  ipv6: true,
};

const OPTIONS: readonly MeshOption[] = [
  { name: 'injected', type: 'boolean', description: "Take what Linkerd's injector gives for all that is left out." },
  { name: 'incoming-proxy-port', short: 'p', type: 'string', valueName: 'PORT', description: 'Where incoming connections are sent (4143).' },
  { name: 'outgoing-proxy-port', short: 'o', type: 'string', valueName: 'PORT', description: 'Where outgoing connections are sent (4140).' },
  { name: 'proxy-uid', short: 'u', type: 'string', valueName: 'UID', description: 'The user that the proxy runs as (none).' },
  { name: 'proxy-gid', short: 'g', type: 'string', valueName: 'GID', description: 'The group that the proxy runs as (none).' },
  { name: 'ports-to-redirect', short: 'r', type: 'string', valueName: 'PORT,…', multiple: true, description: 'Ports that are captured on the way in (all).' },
  { name: 'inbound-ports-to-ignore', type: 'string', valueName: 'PORT[-PORT],…', multiple: true, description: 'Ports that are left alone on the way in.' },
  { name: 'outbound-ports-to-ignore', type: 'string', valueName: 'PORT[-PORT],…', multiple: true, description: 'Ports that are left alone on the way out.' },
  { name: 'subnets-to-ignore', type: 'string', valueName: 'CIDR,…', multiple: true, description: 'Sources that are left alone on the way in.' },
  { name: 'iptables-mode', type: 'string', valueName: 'MODE', description: 'legacy, nft or plain: which iptables --simulate names (legacy).' },
  { name: 'use-wait-flag', short: 'w', type: 'boolean', description: 'Have iptables wait for its lock.' },
  { name: 'ipv6', type: 'boolean', description: 'Make IPv6 rules too; on unless --ipv6=false.' },
  { name: 'simulate', type: 'boolean', description: 'Print the commands that proxy-init would run, instead of rules for iptables-restore.' },
];

/** How many ports one rule takes; a range counts as two (libxt_multiport). */
const MULTIPORT_LIMIT = 15;

export const LINKERD_TOOL: MeshTool = {
  name: 'linkerd',
  summary: 'The rules of linkerd2-proxy-init.',
  description: [
    'The options are those of proxy-init, which itself refuses to run without its two ports; those are 4143 and 4140 here. --injected takes for what is left out what the injector gives: --proxy-uid 2102 --inbound-ports-to-ignore 4190,4191,4567,4568 --outbound-ports-to-ignore 4567,4568.',
    'proxy-init runs iptables once for each rule. The rules are printed for iptables-restore; --simulate prints the commands, as it does there. A subnet is put only into the rules of its own family.',
  ],
  options: OPTIONS,
  ipv6Option: null,
  generate: (values) => generateLinkerdRules(readLinkerdOptions(values)),
};

/** Gives the rules that linkerd2-proxy-init installs (pkg/iptables/iptables.go of linkerd/linkerd2-proxy-init). */
export function generateLinkerdRules(options: LinkerdOptions): MeshRules {
  const families: readonly RuleFamily[] = options.ipv6 ? ['ipv4', 'ipv6'] : ['ipv4'];
  const rules = new Map(families.map((family) => [family, buildRules(options, family)]));
  const isLooping = options.proxyUid === null && options.proxyGid === null;
  return {
    ipv4: rules.get('ipv4')?.restoreText(['nat']) ?? '',
    ipv6: rules.get('ipv6')?.restoreText(['nat']) ?? '',
    setup: [],
    commands: [...rules].flatMap(([family, list]) => writeCommands(options, family, list)),
    notes: isLooping ? ['Without --proxy-uid or --proxy-gid what the proxy itself sends is sent back to it; the injector gives --proxy-uid 2102.'] : [],
  };
}

function readLinkerdOptions(values: OptionValues): LinkerdOptions {
  const isInjected = values.flag('injected');
  const defaults: LinkerdOptions = isInjected ? LINKERD_INJECTED : { ...LINKERD_INJECTED, proxyUid: null, inboundPortsToIgnore: [], outboundPortsToIgnore: [] };
  const list = <T>(name: string, reader: (option: string, text: string) => readonly T[], fallback: readonly T[]): readonly T[] => {
    const texts = values.texts(name);
    return texts.length === 0 ? fallback : texts.flatMap((text) => reader(name, text));
  };
  const one = <T>(name: string, reader: (option: string, text: string) => T, fallback: T): T => {
    const text = values.text(name);
    return text === undefined ? fallback : reader(name, text);
  };
  return {
    incomingProxyPort: one('incoming-proxy-port', readPort, defaults.incomingProxyPort),
    outgoingProxyPort: one('outgoing-proxy-port', readPort, defaults.outgoingProxyPort),
    proxyUid: one('proxy-uid', readOwner, defaults.proxyUid),
    proxyGid: one('proxy-gid', readOwner, defaults.proxyGid),
    portsToRedirect: list('ports-to-redirect', readPorts, defaults.portsToRedirect),
    inboundPortsToIgnore: list('inbound-ports-to-ignore', readPortRanges, defaults.inboundPortsToIgnore),
    outboundPortsToIgnore: list('outbound-ports-to-ignore', readPortRanges, defaults.outboundPortsToIgnore),
    subnetsToIgnore: list('subnets-to-ignore', readRanges, defaults.subnetsToIgnore),
    iptablesMode: one('iptables-mode', (option, text) => readChoice(option, text, ['legacy', 'nft', 'plain'] as const), defaults.iptablesMode),
    wait: values.flag('use-wait-flag'),
    ipv6: values.text('ipv6') !== 'false',
  };
}

/** proxy-init makes no rule for user 0, nor for numbers below. */
function readOwner(option: string, text: string): number | null {
  const id = text === '-1' ? 0 : readUint32(option, text);
  return id === 0 ? null : id;
}

/** Reads `22`, `25-27` and gives them as iptables writes them: `22`, `25:27`. */
function readPortRanges(option: string, text: string): readonly string[] {
  return splitList(option, text).map((entry) => {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(entry);
    const first = Number(match?.[1]);
    const last = match?.[2] === undefined ? first : Number(match[2]);
    if (match === null || last > 65_535 || first > last) {
      throw optionError(option, entry, 'a port or a range of ports such as 25-27');
    }
    return first === last ? String(first) : `${first}:${last}`;
  });
}

function buildRules(options: LinkerdOptions, family: RuleFamily): RuleList {
  const rules = new RuleList();
  const add = (chain: string, rule: string, comment: string): void => {
    rules.append('nat', chain, `${rule} -m comment --comment proxy-init/${comment}`);
  };
  const ignorePorts = (chain: string, ports: readonly string[]): void => {
    for (const group of groupPorts(ports)) {
      add(chain, `-p tcp --match multiport --dports ${group.join(',')} -j RETURN`, `ignore-port-${group.join(',')}`);
    }
  };
  ignorePorts('PROXY_INIT_REDIRECT', options.inboundPortsToIgnore);
  for (const { text } of options.subnetsToIgnore.filter((subnet) => subnet.family === family)) {
    add('PROXY_INIT_REDIRECT', `-p all -j RETURN -s ${text}`, `ignore-subnet-${text}`);
  }
  if (options.portsToRedirect.length === 0) {
    add('PROXY_INIT_REDIRECT', `-p tcp -j REDIRECT --to-port ${options.incomingProxyPort}`, 'redirect-all-incoming-to-proxy-port');
  }
  for (const port of options.portsToRedirect) {
    add('PROXY_INIT_REDIRECT', `-p tcp --destination-port ${port} -j REDIRECT --to-port ${options.incomingProxyPort}`, `redirect-port-${port}-to-proxy-port`);
  }
  add('PREROUTING', '-j PROXY_INIT_REDIRECT', 'install-proxy-init-prerouting');
  if (options.proxyUid !== null) {
    add('PROXY_INIT_OUTPUT', `-m owner --uid-owner ${options.proxyUid} -j RETURN`, 'ignore-proxy-user-id');
  }
  if (options.proxyGid !== null) {
    add('PROXY_INIT_OUTPUT', `-m owner --gid-owner ${options.proxyGid} -j RETURN`, 'ignore-proxy-group-id');
  }
  add('PROXY_INIT_OUTPUT', '-o lo -j RETURN', 'ignore-loopback');
  ignorePorts('PROXY_INIT_OUTPUT', options.outboundPortsToIgnore);
  add('PROXY_INIT_OUTPUT', `-p tcp -j REDIRECT --to-port ${options.outgoingProxyPort}`, 'redirect-all-outgoing-to-proxy-port');
  add('OUTPUT', '-j PROXY_INIT_OUTPUT', 'install-proxy-init-output');
  return rules;
}

/** Fills each rule with as many ports as it takes, in their order (makeMultiportDestinations). */
function groupPorts(ports: readonly string[]): readonly (readonly string[])[] {
  const groups: string[][] = [];
  let room = 0;
  for (const port of ports) {
    const places = port.includes(':') ? 2 : 1;
    if (places > room) {
      groups.push([]);
      room = MULTIPORT_LIMIT;
    }
    groups.at(-1)?.push(port);
    room -= places;
  }
  return groups;
}

/** What `--simulate` prints: it looks at the rules, adds each with a command of its own, and looks again. */
function writeCommands({ iptablesMode, wait }: LinkerdOptions, family: RuleFamily, rules: RuleList): readonly string[] {
  const program = `${family === 'ipv4' ? 'iptables' : 'ip6tables'}${iptablesMode === 'plain' ? '' : `-${iptablesMode}`}`;
  const run = (words: string): string => `${program} -t nat ${words}${wait ? ' -w' : ''}`;
  const list = `${program}-save -t nat`;
  const commands: string[] = [];
  let chain = '';
  for (const line of rules.lines('nat')) {
    const [, next = ''] = line.split(' ');
    if (next !== chain && next.startsWith('PROXY_INIT_')) {
      commands.push(run(`-N ${next}`));
    }
    chain = next;
    commands.push(run(line));
  }
  return [list, ...commands, list];
}
