import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { text as readAll } from 'node:stream/consumers';
import { setTimeout as wait } from 'node:timers/promises';
import { isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { toPortNumber } from '../../agent/protocol/scalars.ts';
import { BUILT_IN_CHAINS, isTableName } from '../../simulator/netfilter/ruleSet.ts';
import type { Backend, JudgeLink, JudgeNamespace, JudgeRules, JudgeWorld } from './judgeCase.ts';
import { KernelNamespace, SOCK_DGRAM, closeSocket, openSocket, sendBytes, socketAddress } from './kernelCalls.ts';
import { NLM_F_ACK, NLM_F_REQUEST, NetlinkSocket, encodeMessage } from './netlink.ts';

/** The legacy backend keeps a table once it was used, so that every rule set there has all five of them. */
const TABLES = Object.keys(BUILT_IN_CHAINS).filter(isTableName);
const NFNL_SUBSYS_NFTABLES = 10;
const NFNL_SUBSYS_CTNETLINK = 1;
const NFT_MSG_DELTABLE = (NFNL_SUBSYS_NFTABLES << 8) | 2;
const NFNL_MSG_BATCH_BEGIN = 16;
const NFNL_MSG_BATCH_END = 17;
const IPCTNL_MSG_CT_DELETE = (NFNL_SUBSYS_CTNETLINK << 8) | 2;
const DISCARD_PORT = toPortNumber(9);
/** Where the lists of `-m recent` and `-m hashlimit` show. */
const LISTS = ['xt_recent', 'ipt_hashlimit', 'ip6t_hashlimit'].map((name) => `/proc/thread-self/net/${name}`);
const MAX_PROBES = 15_000;
const PROBE_MILLISECONDS = 2;
const FAMILY = { ipv4: 2, ipv6: 10 } as const;
type FamilyName = keyof typeof FAMILY;
const FAMILIES: readonly FamilyName[] = ['ipv4', 'ipv6'];
/** What is loaded where loading was not finished. */
const UNKNOWN_RULES = '?';

/**
 * What every namespace is set to before the world's own settings: no traffic of its own (neighbour discovery, router
 * solicitations, repeated SYN-ACKs), no limits on answers, no window tracking, traces by netlink.
 */
const QUIET_SYSCTLS: Readonly<Record<string, string>> = {
  'net.ipv6.conf.all.accept_dad': '0',
  'net.ipv6.conf.default.accept_dad': '0',
  'net.ipv6.conf.default.dad_transmits': '0',
  'net.ipv6.conf.default.accept_ra': '0',
  'net.ipv6.conf.default.router_solicitations': '0',
  'net.ipv6.conf.default.addr_gen_mode': '1',
  'net.ipv6.conf.all.addr_gen_mode': '1',
  'net.ipv4.conf.all.send_redirects': '0',
  'net.ipv4.conf.default.send_redirects': '0',
  'net.ipv4.icmp_ratelimit': '0',
  'net.ipv4.icmp_msgs_per_sec': '1000000',
  'net.ipv4.icmp_msgs_burst': '1000000',
  'net.ipv6.icmp.ratelimit': '0',
  'net.ipv4.tcp_synack_retries': '0',
  'net.ipv4.tcp_invalid_ratelimit': '0',
  'net.ipv4.ping_group_range': '0 2147483647',
  'net.netfilter.nf_conntrack_tcp_be_liberal': '1',
  'net.netfilter.nf_log.2': 'nfnetlink_log',
  'net.netfilter.nf_log.10': 'nfnetlink_log',
};

/** Neighbour discovery and group membership: what a namespace says of itself. */
const UNTRACED = ['icmpv6 type { 130-137, 143 } return', 'ip protocol igmp return'];

/** Before conntrack puts connections into its table, which IPv6 does at INPUT one earlier than last (net/netfilter/nf_conntrack_proto.c, NF_IP6_PRI_LAST - 1). */
const LAST_BUT_CONFIRMING = 2_147_483_645;

/** Traces every packet but those of neighbour discovery, and tells where it enters and leaves netfilter. */
const MARKERS = [
  'table inet judge {',
  ...(['prerouting', 'output'] as const).flatMap((hook) => [
    `chain ${hook} {`,
    `type filter hook ${hook} priority -450`,
    ...UNTRACED,
    'meta nftrace set 1 log prefix "start" group 0 queue-threshold 1',
    '}',
  ]),
  ...(['input', 'postrouting'] as const).flatMap((hook) => [
    `chain ${hook} {`,
    `type filter hook ${hook} priority ${LAST_BUT_CONFIRMING}`,
    ...UNTRACED,
    'log prefix "end" group 0 queue-threshold 1',
    '}',
  ]),
  '}',
  '',
].join('\n');

/** A namespace of a world as the kernel has it. */
export interface BuiltNamespace {
  readonly description: JudgeNamespace;
  readonly kernel: KernelNamespace;
  /** For requests to netfilter. */
  readonly netlink: NetlinkSocket;
}

/** The namespaces of a world in the kernel: built once, used for many rule sets of one backend. */
export class KernelNetwork {
  readonly world: JudgeWorld;
  readonly backend: Backend;
  readonly namespaces: readonly BuiltNamespace[];
  readonly #loaded = new Map<string, string>();
  /** Namespaces whose sets may have been changed by rules. */
  readonly #changedSets = new Set<string>();

  /** Builds it; throws an Error with what ip(8) complained about. */
  constructor(world: JudgeWorld, backend: Backend) {
    this.world = world;
    this.backend = backend;
    const kernels = new Map(world.namespaces.map(({ name }) => [name, new KernelNamespace()]));
    try {
      for (const description of world.namespaces) {
        const kernel = findIn(kernels, description.name);
        kernel.run(() => {
          writeSysctls(QUIET_SYSCTLS);
          runProgram('ip', ['-batch', '-'], linkCommands(description, kernels));
        });
      }
      for (const description of world.namespaces) {
        findIn(kernels, description.name).run(() => {
          runProgram('ip', ['-batch', '-'], addressCommands(world, description));
          runProgram('ip', ['-4', '-batch', '-'], ruleCommands(description, 'ipv4'));
          runProgram('ip', ['-6', '-batch', '-'], ruleCommands(description, 'ipv6'));
          writeSysctls(description.sysctls);
          if (description.ipSets !== undefined) {
            runProgram('ipset', ['restore'], description.ipSets);
          }
          runProgram('nft', ['-f', '-'], MARKERS);
        });
      }
      this.namespaces = world.namespaces.map((description) => {
        const kernel = findIn(kernels, description.name);
        return { description, kernel, netlink: kernel.run(() => new NetlinkSocket()) };
      });
    } catch (error) {
      for (const kernel of kernels.values()) {
        kernel.dispose();
      }
      throw error;
    }
  }

  /** Gives a namespace by its name. */
  find(name: string): BuiltNamespace {
    const found = this.namespaces.find(({ description }) => description.name === name);
    if (found === undefined) {
      throw new RangeError(`there is no namespace ${name}`);
    }
    return found;
  }

  /**
   * Replaces the rules of every namespace, those that are not named by none, and forgets all connections. Rejects with an
   * Error that says what iptables complained about. Most of it is waiting for the kernel, which other networks can use.
   */
  async load(rules: readonly JudgeRules[]): Promise<void> {
    for (const namespace of this.namespaces) {
      const wanted = rules.find((entry) => entry.namespace === namespace.description.name);
      this.#restoreSets(namespace);
      await this.#loadRules(namespace, { ipv4: wanted?.ipv4 ?? '', ipv6: wanted?.ipv6 ?? '' });
      namespace.netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, 0, Buffer.alloc(0));
    }
  }

  dispose(): void {
    for (const { kernel, netlink } of this.namespaces) {
      netlink.dispose();
      kernel.dispose();
    }
  }

  /** Puts back what rules of target SET have changed. */
  #restoreSets({ kernel, description: { name, ipSets } }: BuiltNamespace): void {
    if (ipSets !== undefined && this.#changedSets.delete(name)) {
      const flushed = [...ipSets.matchAll(/^create (\S+)/gm)].map(([, set = '']) => `flush ${set}\n`).join('');
      kernel.run(() => runProgram('ipset', ['restore'], `${flushed}${ipSets.replaceAll(/^create .*\n/gm, '')}`));
    }
  }

  async #loadRules(namespace: BuiltNamespace, texts: Readonly<Record<FamilyName, string>>): Promise<void> {
    const { name } = namespace.description;
    const before = { ipv4: this.#loaded.get(`${name} ipv4`) ?? '', ipv6: this.#loaded.get(`${name} ipv6`) ?? '' };
    // Lists that rules remember packets in are shared by both families.
    const isRemembering = [...Object.values(texts), ...Object.values(before)].some(hasState);
    const stale = FAMILIES.filter((family) => isRemembering || before[family] !== texts[family]);
    for (const family of stale) {
      // Until the next rules are in, nothing is known about what is loaded.
      this.#loaded.set(`${name} ${family}`, UNKNOWN_RULES);
      if (this.backend === 'nft') {
        deleteTables(namespace, FAMILY[family]);
        await waitForNoConntrack(namespace, family);
      } else if (isRemembering) {
        await restoreRules(namespace.kernel, programOf(this.backend, family), EMPTY_RULES);
      }
    }
    if (isRemembering) {
      await waitForNoLists(namespace);
    }
    for (const family of stale) {
      const text = texts[family];
      for (const input of this.backend === 'legacy' ? legacyInputs(text) : text === '' ? [] : [text]) {
        await restoreRules(namespace.kernel, programOf(this.backend, family), input);
      }
      this.#loaded.set(`${name} ${family}`, text);
    }
    if (Object.values(texts).some((text) => text.includes('-j SET '))) {
      this.#changedSets.add(name);
    }
  }
}

/** Says whether rules remember packets: they are loaded anew for each case. */
function hasState(text: string): boolean {
  return text === UNKNOWN_RULES || /-m (?:limit|recent|hashlimit|statistic|quota|connlimit|connbytes)\b|-j SNAT .*--persistent/.test(text);
}

function programOf(backend: Backend, family: FamilyName): string {
  return `${family === 'ipv4' ? 'iptables' : 'ip6tables'}-${backend}-restore`;
}

/**
 * What makes a rule set the only one of the legacy backend, which keeps tables that are not named, and policies that are
 * not: tables without rules come behind, where they change no line number.
 */
function legacyInputs(text: string): readonly string[] {
  const missing = TABLES.filter((table) => !new RegExp(`^\\*\\s*${table}\\s*$`, 'm').test(text));
  const named = new Map<string, Set<string>>();
  let table = '';
  for (const line of text.split('\n')) {
    table = /^\*\s*(\w+)/.exec(line)?.[1] ?? table;
    const chain = /^:(\S+) (?:ACCEPT|DROP)/.exec(line)?.[1];
    if (chain !== undefined) {
      named.set(table, (named.get(table) ?? new Set<string>()).add(chain));
    }
  }
  const isComplete = TABLES.every((name) => missing.includes(name) || BUILT_IN_CHAINS[name].every((chain) => named.get(name)?.has(chain) === true));
  return isComplete ? [text + missing.map(emptyTable).join('')] : [EMPTY_RULES, text];
}

function emptyTable(table: keyof typeof BUILT_IN_CHAINS): string {
  return [`*${table}`, ...BUILT_IN_CHAINS[table].map((chain) => `:${chain} ACCEPT [0:0]`), 'COMMIT', ''].join('\n');
}

/** The legacy backend keeps tables once they were used: with all of them empty nothing is left. */
const EMPTY_RULES = TABLES.map(emptyTable).join('');

async function restoreRules(kernel: KernelNamespace, program: string, input: string): Promise<void> {
  const child = kernel.run(() => spawn(program, [], { stdio: ['pipe', 'ignore', 'pipe'] }));
  const complaint = readAll(child.stderr);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  // Who refuses a rule does not read the rest.
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  if ((await ended) !== 0) {
    throw new Error(`${program}: ${(await complaint).trim()}`);
  }
}

/** Runs a program to its end; an Error holds what it complained about. */
function runProgram(program: string, args: readonly string[], input: string): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { input, encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
  if (status !== 0) {
    throw new Error(`${[program, ...args].join(' ')}: ${error?.message ?? stderr.trim()}`);
  }
  return stdout;
}

function writeSysctls(sysctls: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(sysctls)) {
    writeFileSync(`/proc/sys/${sysctlPath(name)}`, value);
  }
}

/** Names of devices may have dots: `net.ipv4.conf.eth0.5.rp_filter`. */
function sysctlPath(name: string): string {
  const device = /^(net\.ipv[46]\.conf)\.(.+)\.([^.]+)$/.exec(name);
  return device === null ? name.replaceAll('.', '/') : `${(device[1] ?? '').replaceAll('.', '/')}/${device[2] ?? ''}/${device[3] ?? ''}`;
}

function linkCommands(description: JudgeNamespace, kernels: ReadonlyMap<string, KernelNamespace>): string {
  const names = [...kernels.keys()];
  // One end makes both.
  const created = description.links.filter(({ peer }) => names.indexOf(peer.namespace) > names.indexOf(description.name));
  const lines = created.map(({ name, macAddress, peer }) => `link add ${name} address ${macAddress} type veth peer name ${peer.name} netns ${findIn(kernels, peer.namespace).path}`);
  return [...lines, ''].join('\n');
}

function addressCommands(world: JudgeWorld, description: JudgeNamespace): string {
  const lines: string[] = ['link set lo up'];
  for (const link of description.links) {
    lines.push(`link set ${link.name} address ${link.macAddress}`, `link set ${link.name} up`);
    for (const { address, prefixLength } of link.addresses) {
      lines.push(`address add ${address}/${prefixLength} dev ${link.name}${isIpv4(address) ? '' : ' nodad'}`);
    }
    for (const { address } of peerOf(world, link)?.addresses ?? []) {
      lines.push(`neighbour replace ${address} lladdr ${peerOf(world, link)?.macAddress ?? ''} dev ${link.name} nud permanent`);
    }
  }
  for (const { type, destination, gateway, device, table } of description.routes) {
    const way = [gateway === null ? '' : ` via ${gateway}`, device === null ? '' : ` dev ${device}`].join('');
    lines.push(`route add ${type} ${destination.address}/${destination.prefixLength}${way} table ${table}`);
  }
  return [...lines, ''].join('\n');
}

function ruleCommands({ routingRules }: JudgeNamespace, family: 'ipv4' | 'ipv6'): string {
  const lines = routingRules
    .filter((rule) => rule.family === family)
    .map(({ priority, mark, source, inInterface, table }) => {
      const parts = [source === null ? 'from all' : `from ${source.address}/${source.prefixLength}`, inInterface === null ? '' : `iif ${inInterface}`, mark === null ? '' : `fwmark ${mark.value}/${mark.mask}`];
      return `rule add ${parts.filter((part) => part !== '').join(' ')} lookup ${table} priority ${priority}`;
    });
  return [...lines, ''].join('\n');
}

/** Gives the other end of a veth pair. */
export function peerOf(world: JudgeWorld, link: JudgeLink): JudgeLink | undefined {
  return world.namespaces.find(({ name }) => name === link.peer.namespace)?.links.find(({ name }) => name === link.peer.name);
}

function deleteTables({ netlink }: BuiltNamespace, family: number): void {
  const nothing = Buffer.alloc(0);
  netlink.exchange(
    Buffer.concat([
      encodeMessage(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, nothing, NFNL_SUBSYS_NFTABLES),
      encodeMessage(NFT_MSG_DELTABLE, NLM_F_REQUEST | NLM_F_ACK, family, nothing),
      encodeMessage(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, nothing, NFNL_SUBSYS_NFTABLES),
    ]),
    false,
  );
}

/**
 * Rules of nft are destroyed some time after they are gone from the lists (nf_tables_trans_destroy_work), and keep
 * conntrack on until then: waits until a packet over lo, which no rule meets now, leaves no connection.
 */
async function waitForNoConntrack({ kernel, netlink }: BuiltNamespace, family: 'ipv4' | 'ipv6'): Promise<void> {
  const fd = kernel.run(() => openSocket(FAMILY[family], SOCK_DGRAM, 0));
  const loopback = socketAddress(toIpAddress(family === 'ipv4' ? '127.0.0.1' : '::1'), DISCARD_PORT);
  try {
    for (let tries = 0; tries < MAX_PROBES; tries += 1) {
      netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, 0, Buffer.alloc(0));
      sendBytes(fd, Buffer.of(0), loopback);
      if (kernel.run(countConnections) === 0) {
        return;
      }
      await wait(PROBE_MILLISECONDS);
    }
  } finally {
    closeSocket(fd);
  }
  throw new Error('conntrack stays on without a rule that needs it');
}

function countConnections(): number {
  return Number(readFileSync('/proc/sys/net/netfilter/nf_conntrack_count', 'utf8'));
}

/** What `-m recent` and `-m hashlimit` remember lives as long as the rules that name it. */
async function waitForNoLists({ kernel, description }: BuiltNamespace): Promise<void> {
  for (let tries = 0; tries < MAX_PROBES; tries += 1) {
    if (kernel.run(() => LISTS.every((folder) => readdirSync(folder).length === 0))) {
      return;
    }
    await wait(PROBE_MILLISECONDS);
  }
  throw new Error(`lists of ${description.name} stay without a rule that names them`);
}

function findIn<Value>(map: ReadonlyMap<string, Value>, name: string): Value {
  const value = map.get(name);
  if (value === undefined) {
    throw new RangeError(`there is no namespace ${name}`);
  }
  return value;
}
