import { setMaxListeners } from 'node:events';
import { readFileSync } from 'node:fs';

import { MeshpathError, toMeshpathError } from '../protocol/errors.ts';
import type { NamespaceId } from '../protocol/scalars.ts';
import type { ConntrackEntry, NetworkNamespace, Omission, RuleSet, SocketInfo } from '../protocol/snapshot.ts';
import { findCommand, requireCommand, runCommand } from './command.ts';
import { parseConntrackLine } from './conntrackList.ts';
import { parseLinks, parseNamespaceNames, parseRoutes, parseRoutingRules, parseTableNames } from './ipJson.ts';
import type { Listed, ListedLink } from './ipJson.ts';
import type { NamespaceHandle } from './namespaceList.ts';
import { HOST_NAME } from './namespaceList.ts';
import type { ProcessScan } from './processScan.ts';
import { parseSocketLine } from './socketList.ts';

/** A namespace as read, with its links still without the namespaces of their other ends. */
export interface ReadNamespace extends Omit<NetworkNamespace, 'links'> {
  readonly links: readonly ListedLink[];
  readonly omissions: readonly Omission[];
}

/** The parts of a namespace that can be asked for. */
export type NamespacePart = 'links' | 'sockets' | 'routing' | 'sysctls' | 'rules' | 'conntrack';

const MAX_CONNTRACK = 50_000;
const MAX_SOCKETS = 50_000;
const MAX_SYSCTL_DEVICES = 500;
const TABLE_NAME_FILES = ['/etc/iproute2/rt_tables', '/usr/share/iproute2/rt_tables', '/usr/lib/iproute2/rt_tables'];
/** What netfilter, routing and connect(2) look at, relative to /proc/sys/net. */
const SYSCTLS = [
  'ipv4/ip_forward',
  'ipv4/ip_nonlocal_bind',
  'ipv4/ip_local_port_range',
  'ipv4/ip_local_reserved_ports',
  'ipv4/tcp_fwmark_accept',
  'ipv4/fwmark_reflect',
  'ipv4/tcp_early_demux',
  'ipv6/bindv6only',
  'ipv6/conf/all/disable_ipv6',
  'ipv6/conf/all/forwarding',
  'netfilter/nf_conntrack_count',
  'netfilter/nf_conntrack_max',
  'netfilter/nf_conntrack_tcp_be_liberal',
  'netfilter/nf_conntrack_tcp_loose',
  'bridge/bridge-nf-call-iptables',
  'bridge/bridge-nf-call-ip6tables',
];
const DEVICE_SYSCTLS = ['rp_filter', 'route_localnet', 'accept_local', 'src_valid_mark', 'forwarding', 'proxy_arp'];

/**
 * Reads a network namespace with the programs of the node (ip, ss, iptables-save, conntrack), entered by nsenter. A part that cannot
 * be read becomes an omission. Throws CANCELLED.
 */
export async function readNamespace(handle: NamespaceHandle, parts: ReadonlySet<NamespacePart>, scan: ProcessScan, signal: AbortSignal): Promise<ReadNamespace> {
  // Every program that runs listens to it.
  setMaxListeners(0, signal);
  const reader = new NamespaceReader(handle, signal);
  const links = parts.has('links') ? await reader.links() : [];
  const [routing, sysctls, ruleSets, sockets] = await Promise.all([
    parts.has('routing') ? reader.routing() : { routes: [], routingRules: [] },
    parts.has('sysctls') ? reader.sysctls(links) : {},
    parts.has('rules') ? reader.ruleSets() : [],
    parts.has('sockets') ? reader.sockets(scan) : [],
  ]);
  const conntrack = parts.has('conntrack') ? await reader.conntrack() : [];
  return { id: handle.id, names: handle.names, links, ...routing, sysctls, ruleSets, conntrack, sockets, omissions: reader.omissions };
}

/** Gives a namespace a name that people know. */
function namespaceTitle(handle: { readonly id: NamespaceId; readonly names: readonly string[] }): string {
  const name = handle.names[0];
  return name === undefined ? `namespace ${handle.id}` : name === HOST_NAME ? 'the host' : `namespace ${name}`;
}

class NamespaceReader {
  readonly #handle: NamespaceHandle;
  readonly #signal: AbortSignal;
  readonly omissions: Omission[] = [];

  constructor(handle: NamespaceHandle, signal: AbortSignal) {
    this.#handle = handle;
    this.#signal = signal;
  }

  async links(): Promise<ListedLink[]> {
    return this.#try('devices and addresses', [], async () => {
      const listed = await this.#run('ip', ['-d', '-j', 'addr', 'show']);
      // The kernel numbers the namespaces of other ends when it lists the devices (rtnl_fill_link_netnsid), so this comes after it.
      const names = listed.includes('"link_netnsid"') ? await this.#namespaceNames() : undefined;
      return parseLinks(listed, names);
    });
  }

  async routing(): Promise<Pick<NetworkNamespace, 'routes' | 'routingRules'>> {
    const tables = tableNames();
    const list = async <T>(what: string, args: readonly string[], parse: (json: string) => Listed<T>): Promise<readonly T[]> =>
      this.#try(what, [], async () => {
        // ip answers 2 for routes where the family has none at all.
        const { items, remarks } = parse(await this.#run('ip', args, [2]));
        for (const remark of remarks) {
          this.#omit(remark, 'The snapshot has no place for it.', 'Look at `ip rule` and `ip route` on the node.');
        }
        return items;
      });
    const [routes4, routes6, rules4, rules6] = await Promise.all([
      list('IPv4 routes', ['-4', '-j', 'route', 'show', 'table', 'all'], (json) => parseRoutes(json, 'ipv4', tables)),
      list('IPv6 routes', ['-6', '-j', 'route', 'show', 'table', 'all'], (json) => parseRoutes(json, 'ipv6', tables)),
      list('IPv4 routing rules', ['-4', '-j', 'rule', 'show'], (json) => parseRoutingRules(json, 'ipv4', tables)),
      list('IPv6 routing rules', ['-6', '-j', 'rule', 'show'], (json) => parseRoutingRules(json, 'ipv6', tables)),
    ]);
    return { routes: [...routes4, ...routes6], routingRules: [...rules4, ...rules6] };
  }

  async sysctls(links: readonly ListedLink[]): Promise<Record<string, string>> {
    return this.#try('sysctls', {}, async () => {
      const devices = ['all', 'default', ...links.slice(0, MAX_SYSCTL_DEVICES).map(({ name }) => name)].filter((name) => !name.includes('/'));
      const files = [...SYSCTLS, ...devices.flatMap((device) => DEVICE_SYSCTLS.map((name) => `ipv4/conf/${device}/${name}`))];
      // grep answers 2 where some of the files do not exist, which is usual.
      const output = await this.#run('grep', ['-s', '-H', '', ...files.map((file) => `/proc/sys/net/${file}`)], [1, 2]);
      return parseSysctls(output);
    });
  }

  async ruleSets(): Promise<RuleSet[]> {
    const families = [
      { family: 'ipv4', prefix: 'iptables', tablesFile: 'ip_tables_names' },
      { family: 'ipv6', prefix: 'ip6tables', tablesFile: 'ip6_tables_names' },
    ] as const;
    const found = await Promise.all(
      families.map(({ family, prefix, tablesFile }) =>
        this.#try(`${prefix} rules`, [], async (): Promise<RuleSet[]> => {
          const programs = await ruleProgramsOf(prefix, this.#signal);
          const sets: RuleSet[] = [];
          if (programs.nft !== undefined) {
            sets.push({ family, backend: 'nft', text: await this.#runPath(programs.nft, ['-c']) });
          }
          // The file names the tables that exist. Without any, asking would load the modules of the legacy backend.
          const hasLegacyTables = (await this.#run('cat', [`/proc/self/net/${tablesFile}`], [1])).trim() !== '';
          if (hasLegacyTables && programs.legacy !== undefined) {
            sets.push({ family, backend: 'legacy', text: await this.#runPath(programs.legacy, ['-c']) });
          } else if (hasLegacyTables) {
            this.#omit(`legacy ${prefix} rules`, `The kernel has legacy tables, and ${prefix}-legacy-save is not installed.`, 'Install it (Debian package iptables).');
          }
          for (const { text } of sets) {
            const incompatible = /^# Table `([^']{1,60})' is incompatible/m.exec(text)?.[1];
            if (incompatible !== undefined) {
              this.#omit(`the nftables table ${incompatible}`, 'It was not made by iptables, and iptables-save cannot show it.', 'Look at it with `nft list ruleset`.');
            }
          }
          return sets.filter(({ text }) => /^\*\w/m.test(text));
        }),
      ),
    );
    return found.flat();
  }

  async sockets(scan: ProcessScan): Promise<SocketInfo[]> {
    return this.#try('sockets', [], async () => {
      const lines = (await this.#run('ss', ['-Hntuae'])).split('\n');
      if (lines.length > MAX_SOCKETS) {
        this.#omit(`${lines.length - MAX_SOCKETS} sockets`, `There are more than ${MAX_SOCKETS}.`, 'Look at them with `ss` on the node.');
      }
      return lines.slice(0, MAX_SOCKETS).flatMap((line) => {
        const listed = parseSocketLine(line);
        if (listed === undefined) {
          return [];
        }
        const { cgroup, ...socket } = listed;
        const holder = listed.inode === '0' ? null : scan.socketOwner(listed.inode);
        // The kernel runs the programs of the cgroup that created the socket, wherever its holder is now.
        return [{ ...socket, owner: holder === null ? null : { ...holder, cgroup: cgroup ?? holder.cgroup } }];
      });
    });
  }

  async conntrack(): Promise<ConntrackEntry[]> {
    return this.#try('conntrack', [], async () => {
      // Without connection tracking in the kernel there is nothing, and asking would load it.
      const count = (await this.#run('cat', ['/proc/sys/net/netfilter/nf_conntrack_count'], [1])).trim();
      if (count === '' || count === '0') {
        return [];
      }
      const outputs = await Promise.all(['ipv4', 'ipv6'].map((family) => this.#run('conntrack', ['-L', '-f', family, '-o', 'extended'])));
      const entries = outputs.flatMap((output) => output.split('\n')).flatMap((line) => parseConntrackLine(line) ?? []);
      if (entries.length > MAX_CONNTRACK) {
        this.#omit(`${entries.length - MAX_CONNTRACK} conntrack entries`, `There are more than ${MAX_CONNTRACK}.`, 'Look at them with `conntrack -L` on the node.');
      }
      return entries.slice(0, MAX_CONNTRACK);
    });
  }

  async #namespaceNames(): Promise<ReadonlyMap<number, string>> {
    return this.#try('names of neighbouring namespaces', new Map<number, string>(), async () => parseNamespaceNames(await this.#run('ip', ['-j', 'netns', 'list-id'])));
  }

  async #run(name: string, args: readonly string[], okCodes: readonly number[] = []): Promise<string> {
    return this.#runPath(requireCommand(name), args, okCodes);
  }

  async #runPath(path: string, args: readonly string[], okCodes: readonly number[] = []): Promise<string> {
    return this.#handle.own
      ? runCommand(path, args, this.#signal, okCodes)
      : runCommand(requireCommand('nsenter'), [`--net=${this.#handle.path}`, '--', path, ...args], this.#signal, okCodes);
  }

  async #try<T>(what: string, otherwise: T, read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      const known = toMeshpathError(error);
      if (known.code === 'CANCELLED') {
        throw known;
      }
      this.#omit(what, `${known.message} ${known.reason}`, known.remedy);
      return otherwise;
    }
  }

  #omit(what: string, reason: string, remedy: string): void {
    this.omissions.push({ what: `${what} of ${namespaceTitle(this.#handle)}`, reason, remedy });
  }
}

/** Parses the output of `grep -H '' /proc/sys/net/…`: `path:value` lines. Gives dotted names; a dot in a device's name becomes `/`, as sysctl(8) has it. */
export function parseSysctls(output: string): Record<string, string> {
  const sysctls: Record<string, string> = {};
  for (const line of output.split('\n')) {
    const match = /^\/proc\/sys\/(net\/[^:]+(?::[^:/]+)*?):([^:]*)$/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) {
      const name = match[1].replace(/[./]/g, (character) => (character === '/' ? '.' : '/'));
      sysctls[name] = match[2].replaceAll('\t', ' ');
    }
  }
  return sysctls;
}

interface RulePrograms {
  readonly nft: string | undefined;
  readonly legacy: string | undefined;
}

/** Finds the programs that save the rules of each backend: by their own names, else what the plain name is (`… v1.8.9 (nf_tables)`). */
async function ruleProgramsOf(prefix: 'iptables' | 'ip6tables', signal: AbortSignal): Promise<RulePrograms> {
  const nft = findCommand(`${prefix}-nft-save`);
  const legacy = findCommand(`${prefix}-legacy-save`);
  if (nft !== undefined || legacy !== undefined) {
    return { nft, legacy };
  }
  const plain = requireCommand(`${prefix}-save`);
  const version = await runCommand(plain, ['-V'], signal);
  return version.includes('nf_tables') ? { nft: plain, legacy: undefined } : { nft: undefined, legacy: plain };
}

function tableNames(): ReadonlyMap<string, number> {
  for (const file of TABLE_NAME_FILES) {
    try {
      return parseTableNames(readFileSync(file, 'utf8'));
    } catch (error) {
      if (MeshpathError.is(error)) {
        throw error;
      }
      // This distribution keeps it elsewhere, or nowhere.
    }
  }
  return new Map();
}
