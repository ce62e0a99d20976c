import type { Endpoint } from '../protocol/scalars.ts';
import type { ProgramProcess } from './programProcess.ts';
import type { HttpParams, HttpResult, OpenedConnection, OpenParams, ReceivedBytes, ReceiveParams, RoundTripParams, SendParams, Visit, VisitParams } from './programs/reports.ts';

export interface ConnectOptions {
  readonly address: string;
  readonly port: number;
  /** Bound to before connecting. */
  readonly localAddress?: string;
  readonly localPort?: number;
  /** Of the byte pattern; another one for each connection shows bytes of a stranger. Random where it is left out. */
  readonly seed?: number;
}

/** A client that runs in a pod. */
export class LabClient {
  readonly #program: ProgramProcess;

  constructor(program: ProgramProcess) {
    this.#program = program;
  }

  get pid(): number {
    return this.#program.pid;
  }

  /** Opens a connection; rejects with an Error whose `code` is the errno name that connect(2) gave. */
  async connect(options: ConnectOptions): Promise<LabConnection> {
    const params: OpenParams = {
      address: options.address,
      port: options.port,
      localAddress: options.localAddress ?? null,
      localPort: options.localPort ?? 0,
      seed: options.seed ?? Math.floor(Math.random() * 0xffff_ffff),
    };
    return new LabConnection(this.#program, (await this.#program.ask('open', params)) as OpenedConnection);
  }

  /** Opens a connection, exchanges bytes with an echo server and leaves it open; rejects as `connect` does. */
  async visit(params: VisitParams): Promise<Visit> {
    return (await this.#program.ask('visit', params)) as Visit;
  }

  /** Closes what a visit left open, in good order. */
  async leave({ connection }: Visit): Promise<void> {
    await this.#program.ask('close', { connection });
  }

  /** Asks a server of http mode: GET, or POST with a body of `bodyBytes`. */
  async http(options: { readonly address: string; readonly port: number; readonly path?: string; readonly bodyBytes?: number }): Promise<HttpResult> {
    const params: HttpParams = {
      address: options.address,
      port: options.port,
      path: options.path ?? '/',
      bodyBytes: options.bodyBytes ?? 0,
    };
    return (await this.#program.ask('http', params)) as HttpResult;
  }

  /** Ends the client; its open connections are reset. */
  async stop(): Promise<void> {
    await this.#program.stop();
  }
}

/** A connection of a client. Bytes that it sends are a pattern, and bytes that it receives are compared with the same. */
export class LabConnection {
  /** The client's own address, as getsockname(2) gave it right after connect. */
  readonly local: Endpoint;
  /** What getpeername(2) gave right after connect. */
  readonly peer: Endpoint;
  readonly #program: ProgramProcess;
  readonly #id: number;

  constructor(program: ProgramProcess, opened: OpenedConnection) {
    this.#program = program;
    this.#id = opened.connection;
    this.local = opened.local;
    this.peer = opened.peer;
  }

  /** Asks the kernel again for both addresses. */
  async describe(): Promise<{ readonly local: Endpoint; readonly peer: Endpoint }> {
    return (await this.#program.ask('describe', { connection: this.#id })) as OpenedConnection;
  }

  /** Sends the next `bytes` of the pattern, without waiting for an answer. */
  async send(bytes: number, writeBytes = 65_536): Promise<void> {
    const params: SendParams = { connection: this.#id, bytes, writeBytes };
    await this.#program.ask('send', params);
  }

  /** Receives `bytes` and compares them with the pattern; fewer where the peer closes. */
  async receive(bytes: number): Promise<ReceivedBytes> {
    const params: ReceiveParams = { connection: this.#id, bytes };
    return (await this.#program.ask('receive', params)) as ReceivedBytes;
  }

  /** Receives `bytes` of text that is not of the pattern, such as a greeting; less where the peer closes. */
  async receiveText(bytes: number): Promise<string> {
    const params: ReceiveParams = { connection: this.#id, bytes };
    return (await this.#program.ask('receiveText', params)) as string;
  }

  /** Sends and receives `bytes` at the same time: what an echo server is tested with. */
  async exchange(bytes: number, writeBytes = 65_536): Promise<ReceivedBytes> {
    const [received] = await Promise.all([this.receive(bytes), this.send(bytes, writeBytes)]);
    return received;
  }

  /** Sends and receives `bytes` for `rounds` times, one after the other, and gives the milliseconds of each round. */
  async measureRoundTrips(bytes: number, rounds: number): Promise<readonly number[]> {
    const params: RoundTripParams = { connection: this.#id, bytes, rounds };
    return (await this.#program.ask('roundTrips', params)) as number[];
  }

  /** Sends a FIN and goes on receiving. */
  async end(): Promise<void> {
    await this.#program.ask('end', { connection: this.#id });
  }

  /** Closes in good order; what was sent before still arrives. */
  async close(): Promise<void> {
    await this.#program.ask('close', { connection: this.#id });
  }

  /** Closes with a reset. */
  async reset(): Promise<void> {
    await this.#program.ask('reset', { connection: this.#id });
  }
}
