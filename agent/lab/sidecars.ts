import type { MeshProfile } from '../protocol/acceleration.ts';
import { inputError } from '../protocol/errors.ts';
import { parseIpAddress } from '../protocol/ipAddress.ts';
import { LAB_SIDECARS } from '../protocol/lab.ts';
import type { LabSidecar, LabSidecarName } from '../protocol/lab.ts';
import { toPortNumber } from '../protocol/scalars.ts';
import type { Endpoint, IpAddress } from '../protocol/scalars.ts';
import type { ProgramName, ProxyParams, SocksParams } from './programs/reports.ts';

/** What a sidecar was told about one connection. */
export interface SidecarReport {
  readonly side: 'outbound' | 'inbound';
  readonly peer: IpAddress;
  readonly originalDestination: Endpoint | null;
}

/** A process to start in a pod as the user of the mesh's sidecar. */
export interface SidecarProcess {
  /** What a person knows it by, and the name of its files. */
  readonly role: string;
  readonly start:
    /** A program of the lab, which can be asked. */
    | { readonly kind: 'program'; readonly name: ProgramName; readonly params: Omit<ProxyParams, 'identity'> | Omit<SocksParams, 'identity'> }
    /** A command of the node; `configuration` is the text of the file whose path stands in for CONFIGURATION. */
    | { readonly kind: 'command'; readonly command: readonly [string, ...string[]]; readonly configuration: string | null };
  /** Ports that it listens on once it is ready. */
  readonly listens: readonly number[];
  /** Reads what its log tells of connections; null where it does not. */
  readonly readLog: ((log: string) => readonly SidecarReport[]) | null;
}

/** Stands in a command for the path of its configuration. */
export const CONFIGURATION = '{configuration}';
/** What a command of a person may name. */
const PLACES = ['{outbound-port}', '{inbound-port}', '{passthrough-source}'] as const;
const MAX_COMMAND_WORDS = 64;
const MAX_WORD_CHARACTERS = 4_096;
/** How far the ports of the server behind redsocks are from those of the mesh. */
const SOCKS_PORT_DISTANCE = 100;

/** Gives the processes that make a pod's sidecar. */
export function sidecarProcesses(sidecar: LabSidecar, profile: MeshProfile): readonly SidecarProcess[] {
  return typeof sidecar === 'string' ? KINDS[sidecar](profile) : [commandProcess(sidecar.command, profile)];
}

/** Gives the command that a sidecar needs on the node; null where it needs none. */
export function sidecarCommand(sidecar: LabSidecar): string | null {
  if (typeof sidecar === 'string') {
    return sidecar === 'haproxy' || sidecar === 'redsocks' ? sidecar : null;
  }
  return sidecar.command[0] ?? null;
}

/** Gives a sidecar as a person knows it. */
export function describeSidecar(sidecar: LabSidecar): string {
  return typeof sidecar === 'string' ? sidecar : sidecar.command.join(' ');
}

/** Reads a sidecar of a request; throws INPUT_INVALID. */
export function checkSidecar(sidecar: LabSidecar): LabSidecar {
  const isKnown = typeof sidecar === 'string' ? LAB_SIDECARS.includes(sidecar) : isCommand(sidecar.command);
  if (!isKnown) {
    throw inputError('A lab cannot have this sidecar.', `The sidecars are ${LAB_SIDECARS.join(', ')}, or a command of at most ${MAX_COMMAND_WORDS} words.`, 'Name one of them.');
  }
  return sidecar;
}

function isCommand(words: readonly string[]): boolean {
  return words.length > 0 && words.length <= MAX_COMMAND_WORDS && words[0] !== '' && words.every((word) => word.length <= MAX_WORD_CHARACTERS && !word.includes('\0'));
}

const LOCALHOST = '127.0.0.1';
const ANY_ADDRESS = '0.0.0.0';

const KINDS: Readonly<Record<LabSidecarName, (profile: MeshProfile) => readonly SidecarProcess[]>> = {
  none: () => [],
  builtin: ({ outboundPort, inboundPort, passthroughSource, passthroughSourceV6, connectsToLocalhost }) => [
    {
      role: 'sidecar',
      start: {
        kind: 'program',
        name: 'proxy',
        params: { outboundPort, inboundPort, listenAddress: '0.0.0.0', passthroughSource: passthroughSource ?? '0.0.0.0', passthroughSourceV6: passthroughSourceV6 ?? '::', applicationAddress: connectsToLocalhost ? LOCALHOST : null },
      },
      listens: [outboundPort, inboundPort],
      readLog: null,
    },
  ],
  haproxy: (profile) => [
    {
      role: 'sidecar',
      start: { kind: 'command', command: ['haproxy', '-db', '-f', CONFIGURATION], configuration: haproxyConfiguration(profile) },
      listens: [profile.outboundPort, profile.inboundPort],
      readLog: readHaproxyLog,
    },
  ],
  redsocks: ({ outboundPort, inboundPort, passthroughSource, connectsToLocalhost }) => {
    const socksPorts = { outboundPort: outboundPort + SOCKS_PORT_DISTANCE, inboundPort: inboundPort + SOCKS_PORT_DISTANCE };
    return [
      { role: 'socks', start: { kind: 'program', name: 'socks', params: { ...socksPorts, passthroughSource, applicationAddress: connectsToLocalhost ? LOCALHOST : null } }, listens: [socksPorts.outboundPort, socksPorts.inboundPort], readLog: null },
      // Its log does not tell by which port a connection came: one process for each.
      redsocksProcess('outbound', outboundPort, socksPorts.outboundPort),
      redsocksProcess('inbound', inboundPort, socksPorts.inboundPort),
    ];
  },
};

/**
 * `dst` is what SO_ORIGINAL_DST answers. A server of the address 0.0.0.0 is connected to at `dst`, and one without a port at the
 * port of it (HAProxy's configuration manual, 5.2).
 */
function haproxyConfiguration({ outboundPort, inboundPort, passthroughSource, connectsToLocalhost }: MeshProfile): string {
  const side = (name: string, port: number, server: string): string[] => [
    `frontend ${name}`,
    `  bind 0.0.0.0:${port}`,
    `  log-format "meshpath ${name} %ci %cp %[dst] %[dst_port]"`,
    `  default_backend ${name}_on`,
    `backend ${name}_on`,
    `  server original ${server}`,
  ];
  return [
    'global',
    '  log stdout format raw daemon info',
    '  maxconn 4000',
    'defaults',
    '  mode tcp',
    '  log global',
    '  option logasap',
    '  timeout connect 10s',
    '  timeout client 1h',
    '  timeout server 1h',
    ...side('outbound', outboundPort, ANY_ADDRESS),
    ...side('inbound', inboundPort, `${connectsToLocalhost ? LOCALHOST : ANY_ADDRESS}${passthroughSource === null ? '' : ` source ${passthroughSource}`}`),
    '',
  ].join('\n');
}

function readHaproxyLog(log: string): readonly SidecarReport[] {
  return log.split('\n').flatMap((line) => {
    const match = /^meshpath (outbound|inbound) (\S+) \d{1,5} (\S+) (\d{1,5})$/.exec(line);
    const report = match === null ? undefined : createReport(match[1] === 'outbound' ? 'outbound' : 'inbound', match[2], match[3], match[4]);
    return report ?? [];
  });
}

function redsocksProcess(side: 'outbound' | 'inbound', port: number, socksPort: number): SidecarProcess {
  const configuration = [
    'base {',
    '  log_debug = off; log_info = on; log = "stderr"; daemon = off; redirector = iptables;',
    '}',
    'redsocks {',
    // splice(2) does not see bytes that come from socket to socket, and waits for ever.
    '  splice = false;',
    `  local_ip = 0.0.0.0; local_port = ${port}; ip = 127.0.0.1; port = ${socksPort}; type = socks5;`,
    '}',
    '',
  ].join('\n');
  return {
    role: `sidecar-${side}`,
    start: { kind: 'command', command: ['redsocks', '-c', CONFIGURATION], configuration },
    listens: [port],
    readLog: (log) => readRedsocksLog(side, log),
  };
}

/** `[10.77.0.11:40000->10.77.0.12:8080]: accepted` */
function readRedsocksLog(side: 'outbound' | 'inbound', log: string): readonly SidecarReport[] {
  return log.split('\n').flatMap((line) => {
    const match = /\[(\d+\.\d+\.\d+\.\d+):\d{1,5}->(\d+\.\d+\.\d+\.\d+):(\d{1,5})\]: accepted$/.exec(line);
    return (match === null ? undefined : createReport(side, match[1], match[2], match[3])) ?? [];
  });
}

/** Logs are untrusted: what is no address is no report. */
function createReport(side: 'outbound' | 'inbound', peerText = '', addressText = '', portText = ''): SidecarReport | undefined {
  const peer = parseIpAddress(peerText);
  const address = parseIpAddress(addressText);
  const port = Number(portText);
  return peer === undefined || address === undefined || port > 0xffff ? undefined : { side, peer, originalDestination: { address, port: toPortNumber(port) } };
}

function commandProcess([file = '', ...words]: readonly string[], { outboundPort, inboundPort, passthroughSource }: MeshProfile): SidecarProcess {
  const values: Readonly<Record<(typeof PLACES)[number], string>> = {
    '{outbound-port}': String(outboundPort),
    '{inbound-port}': String(inboundPort),
    '{passthrough-source}': passthroughSource ?? '0.0.0.0',
  };
  const fill = (word: string): string => PLACES.reduce((text, place) => text.replaceAll(place, values[place]), word);
  return {
    role: 'sidecar',
    start: { kind: 'command', command: [file, ...words.map(fill)], configuration: null },
    listens: [outboundPort, inboundPort],
    readLog: null,
  };
}
