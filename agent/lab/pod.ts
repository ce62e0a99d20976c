import { spawn } from 'node:child_process';
import type { ChildProcess, ChildProcessByStdio } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { ISTIO_PROFILE } from '../protocol/acceleration.ts';
import type { PodEnrolment } from '../protocol/acceleration.ts';
import type { CgroupPath, IpAddress, NamespaceId } from '../protocol/scalars.ts';
import { createCgroup } from './cgroupFolders.ts';
import { COMMAND_FOLDERS, requireCommand } from '../snapshot/command.ts';
import { runCommand } from './command.ts';
import { commandInPod, ProgramProcess } from './programProcess.ts';
import type { ProcessPlace, StayingOptions } from './programProcess.ts';
import { LabClient } from './client.ts';
import { NAMESPACES_FOLDER } from './labNames.ts';
import type {
  AcceptedConnection,
  ClientParams,
  EndedConnection,
  EndedProxying,
  ProgramIdentity,
  ProgramName,
  ProxiedConnection,
  ProxyParams,
  ServerParams,
} from './programs/reports.ts';
import { ReportLog } from './reportLog.ts';

/** Who the application is unless a test says otherwise. */
export const APPLICATION_IDENTITY: ProgramIdentity = { uid: 1000, gid: 1000 };
/** Who Istio's sidecar is. */
export const SIDECAR_IDENTITY: ProgramIdentity = { uid: ISTIO_PROFILE.proxyUid, gid: ISTIO_PROFILE.proxyGid };

export interface PlaceOptions {
  readonly identity?: ProgramIdentity;
  /** A cgroup below the pod's to run in, as containers have; the pod's own where it is left out. */
  readonly container?: string;
}

export interface ServerOptions extends PlaceOptions {
  readonly mode?: ServerParams['mode'];
  /** All of the pod's addresses where it is left out. */
  readonly address?: string;
  /** One that the kernel chooses where it is left out. */
  readonly port?: number;
  readonly greeting?: string;
}

export interface ProxyOptions extends PlaceOptions {
  readonly outboundPort?: number;
  readonly inboundPort?: number;
  /** All IPv4 addresses where it is left out. */
  readonly listenAddress?: string;
  readonly passthroughSource?: string;
  readonly passthroughSourceV6?: string;
  readonly applicationAddress?: string;
}

/** A running server. */
export interface LabServer {
  readonly pid: number;
  readonly port: number;
  readonly accepted: ReportLog<AcceptedConnection>;
  readonly ended: ReportLog<EndedConnection>;
  stop(): Promise<void>;
}

/** A running sidecar. */
export interface LabProxy {
  readonly pid: number;
  readonly accepted: ReportLog<ProxiedConnection>;
  readonly ended: ReportLog<EndedProxying>;
  stop(): Promise<void>;
}

/** What makes a pod of a lab. */
export interface PodParts {
  readonly name: string;
  readonly namespaceName: string;
  readonly namespaceId: NamespaceId;
  readonly cgroup: CgroupPath;
  readonly cgroupFolder: string;
  readonly addresses: readonly IpAddress[];
  /** The file of the programs that run in it. */
  readonly programPath: string;
}

/** A pod: a network namespace with an address, a cgroup, and what is started in both. */
export class LabPod {
  /** `pod-a`. */
  readonly name: string;
  /** Under /run/netns. */
  readonly namespaceName: string;
  readonly namespaceId: NamespaceId;
  /** Below the root of the cgroup2 hierarchy: `/meshpath-lab-…/pod-a`. */
  readonly cgroup: CgroupPath;
  /** The same as an absolute folder. */
  readonly cgroupFolder: string;
  readonly addresses: readonly IpAddress[];
  readonly #programPath: string;

  constructor(parts: PodParts) {
    this.name = parts.name;
    this.namespaceName = parts.namespaceName;
    this.namespaceId = parts.namespaceId;
    this.cgroup = parts.cgroup;
    this.cgroupFolder = parts.cgroupFolder;
    this.addresses = parts.addresses;
    this.#programPath = parts.programPath;
  }

  /** The pod's one IPv4 address. */
  get address(): IpAddress {
    const [address] = this.addresses;
    if (address === undefined) {
      throw new Error(`${this.name} has no address`);
    }
    return address;
  }

  /** The pod as acceleration is asked for it. */
  get enrolment(): PodEnrolment {
    return { cgroup: this.cgroup, addresses: this.addresses };
  }

  /** Starts any command in the pod. It is ended when the lab is disposed of. */
  async start(command: readonly string[], options: PlaceOptions = {}): Promise<ChildProcessByStdio<null, Readable, Readable>> {
    const [file, ...args] = commandInPod(await this.#place(options), command, options.identity ?? APPLICATION_IDENTITY);
    return spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Runs a command in the pod's network namespace as root, outside of its cgroup, and gives what it printed. */
  async run(command: string, args: readonly string[], input = '', signal?: AbortSignal): Promise<string> {
    return runCommand('nsenter', [`--net=${join(NAMESPACES_FOLDER, this.namespaceName)}`, '--', requireCommand(command), ...args], input, signal);
  }

  /** Starts a server; by default an echo server of the application. */
  async startServer(options: ServerOptions = {}): Promise<LabServer> {
    const params: ServerParams = {
      identity: options.identity ?? APPLICATION_IDENTITY,
      address: options.address ?? '0.0.0.0',
      port: options.port ?? 0,
      mode: options.mode ?? 'echo',
      greeting: options.greeting ?? null,
    };
    const accepted = new ReportLog<AcceptedConnection>();
    const ended = new ReportLog<EndedConnection>();
    const program = await this.#startProgram('server', params, options, recorder(accepted, ended));
    const port = (await program.ask('port', {})) as number;
    return { pid: program.pid, port, accepted, ended, stop: () => program.stop() };
  }

  /** Starts the sidecar; by default as Istio's. */
  async startProxy(options: ProxyOptions = {}): Promise<LabProxy> {
    const params: ProxyParams = {
      identity: options.identity ?? SIDECAR_IDENTITY,
      outboundPort: options.outboundPort ?? ISTIO_PROFILE.outboundPort,
      inboundPort: options.inboundPort ?? ISTIO_PROFILE.inboundPort,
      passthroughSource: options.passthroughSource ?? ISTIO_PROFILE.passthroughSource ?? '0.0.0.0',
      passthroughSourceV6: options.passthroughSourceV6 ?? '::',
      listenAddress: options.listenAddress ?? '0.0.0.0',
      applicationAddress: options.applicationAddress ?? null,
    };
    const accepted = new ReportLog<ProxiedConnection>();
    const ended = new ReportLog<EndedProxying>();
    const program = await this.#startProgram('proxy', params, options, recorder(accepted, ended));
    return { pid: program.pid, accepted, ended, stop: () => program.stop() };
  }

  /** Starts a client of the application, which opens connections as it is told. */
  async startClient(options: PlaceOptions = {}): Promise<LabClient> {
    const params: ClientParams = { identity: options.identity ?? APPLICATION_IDENTITY };
    return new LabClient(await this.#startProgram('client', params, options, () => undefined));
  }

  /** Starts a program that stays until the lab is taken down, and gives its process id once it is ready. */
  async leaveProgram(name: ProgramName, params: { readonly identity: ProgramIdentity }, container: string, options: StayingOptions): Promise<number> {
    return ProgramProcess.leave(this.#programPath, name, await this.#place({ container }), params, options);
  }

  /** Starts a command that stays until the lab is taken down; what it prints goes to `logPath`. Throws NOT_SUPPORTED where it is not installed. */
  async leaveCommand([name, ...args]: readonly [string, ...string[]], identity: ProgramIdentity, container: string, logPath: string): Promise<ChildProcess> {
    const path = name.includes('/') ? name : requireCommand(name);
    const [file, ...words] = commandInPod(await this.#place({ container }), [path, ...args], identity);
    const log = await open(logPath, 'a', 0o644);
    try {
      const child = spawn(file, words, { stdio: ['ignore', log.fd, log.fd], detached: true, cwd: '/', env: { PATH: COMMAND_FOLDERS.join(':'), LC_ALL: 'C' } });
      // Whoever started it looks whether it listens, which says the same.
      child.on('error', () => undefined);
      child.unref();
      return child;
    } finally {
      await log.close();
    }
  }

  async #startProgram(
    name: ProgramName,
    params: { readonly identity: ProgramIdentity },
    options: PlaceOptions,
    onEvent: (event: string, value: unknown) => void,
  ): Promise<ProgramProcess> {
    return ProgramProcess.start(this.#programPath, name, await this.#place(options), params, onEvent);
  }

  async #place(options: PlaceOptions): Promise<ProcessPlace> {
    const cgroupFolder = options.container === undefined ? this.cgroupFolder : join(this.cgroupFolder, options.container);
    await createCgroup(cgroupFolder);
    return { cgroupFolder, namespaceName: this.namespaceName };
  }
}

/** Both sides of the conversation are built from one file of types, programs/reports.ts. */
function recorder<Accepted, Ended>(accepted: ReportLog<Accepted>, ended: ReportLog<Ended>): (event: string, value: unknown) => void {
  return (event, value) => {
    if (event === 'accepted') {
      accepted.add(value as Accepted);
    } else {
      ended.add(value as Ended);
    }
  };
}
