import { constants } from 'node:os';
import type { IpAddress } from '../../agent/protocol/scalars.ts';
import { formatIpAddress, ipAddressBytes, isIpv4, toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { ConnectionTable, writeConnection } from './connectionTable.ts';
import { destroyHalfOpenConnections } from './halfOpenConnections.ts';
import type { ConnectionEntry, ConversationStep, JudgeCase, JudgeClient, JudgeLink, JudgeSocket, Observation, Passage, Stimulus } from './judgeCase.ts';
import {
  AF_INET, AF_INET6, AF_PACKET, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM,
  acceptSocket, bindSocket, closeSocket, connectSocket, deviceIndex, endSending, listenSocket, openAs, openSocket, pause, readOption, receiveBytes, receiveFrom, sendBytes, setOption, setOptionBytes, socketAddress,
} from './kernelCalls.ts';
import type { BuiltNamespace, KernelNetwork } from './kernelNetwork.ts';
import { peerOf } from './kernelNetwork.ts';
import { encodePacket } from './packetBytes.ts';
import { PassageRecorder } from './passageRecorder.ts';

const SOL_IP = 0;
const SOL_SOCKET = 1;
const SOL_IPV6 = 41;
const SO_REUSEADDR = 2;
const SO_ERROR = 4;
const SO_TYPE = 3;
const SO_LINGER = 13;
const SO_BINDTODEVICE = 25;
const SO_MARK = 36;
const IPPROTO_ICMP = 1;
const IPPROTO_ICMPV6 = 58;
const IPPROTO_RAW = 255;
const IPPROTO_TCP = 6;
const IP_TRANSPARENT = 19;
const IPV6_TRANSPARENT = 75;
const IPV6_V6ONLY = 26;
const TCP_NODELAY = 1;
const TCP_INFO = 11;
/** tcpi_unacked (include/uapi/linux/tcp.h): segments that the other end has not acknowledged. */
const UNACKNOWLEDGED_OFFSET = 24;
const TCP_QUICKACK = 12;
/** In repair mode close(2) sends nothing: a connection that was looked at disappears without a packet. */
const TCP_REPAIR = 19;
const TCP_ESTABLISHED = 1;
/** SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST */
const ORIGINAL_DESTINATION = 80;
const ETHERNET_BYTES = 14;
/** What the ends of a conversation send at a time. */
const SENT_BYTES = 10;
const ECHO_BYTES = 8;
const ECHO_REQUEST = 8;
const ECHO_REQUEST_6 = 128;
/** How long a patient driver waits for what comes late, twice. */
const PATIENT_MILLISECONDS = 25;

const ERRNO_NAMES = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

interface WaitingSocket {
  readonly namespace: string;
  readonly description: JudgeSocket;
  readonly fd: number;
}

/** Puts stimuli before the kernel and tells what they came to. One for each network. */
export class KernelDriver {
  readonly #network: KernelNetwork;
  readonly #recorders: readonly PassageRecorder[];
  readonly #tables: readonly { readonly namespace: string; readonly table: ConnectionTable }[];
  readonly #wires = new Map<string, number>();
  readonly #rawSockets = new Map<string, number>();
  readonly #waiting: readonly WaitingSocket[];
  /** Namespaces whose listeners may have half-open connections. */
  readonly #halfOpen = new Set<string>();

  constructor(network: KernelNetwork) {
    this.#network = network;
    this.#recorders = network.namespaces.map((namespace) => new PassageRecorder(namespace, network.backend, deviceNames(namespace)));
    this.#tables = network.namespaces.map(({ description, kernel }) => ({ namespace: description.name, table: kernel.run(() => new ConnectionTable()) }));
    this.#waiting = network.namespaces.flatMap((namespace) =>
      namespace.description.sockets.map((description) => ({
        namespace: namespace.description.name,
        description,
        fd: namespace.kernel.run(() => openWaitingSocket(description)),
      })),
    );
  }

  /**
   * Loads the rules of a case and gives one observation for each stimulus. `isPatient`: waits for packets that the kernel
   * handles later than at once, as it does on a machine that is very busy.
   */
  async run(judged: Omit<JudgeCase, 'world' | 'backend'>, isPatient = false): Promise<readonly Observation[]> {
    await this.#network.load(judged.rules);
    for (const { description } of this.#network.namespaces) {
      this.#halfOpen.add(description.name);
    }
    this.#forgetHalfOpen();
    for (const [index, recorder] of this.#recorders.entries()) {
      const name = this.#network.namespaces[index]?.description.name;
      recorder.learnRules(judged.rules.find(({ namespace }) => namespace === name));
    }
    return judged.stimuli.map((stimulus) => this.#observe(stimulus, isPatient));
  }

  dispose(): void {
    for (const recorder of this.#recorders) {
      recorder.dispose();
    }
    for (const { table } of this.#tables) {
      table.dispose();
    }
    for (const fd of [...this.#wires.values(), ...this.#rawSockets.values(), ...this.#waiting.map((socket) => socket.fd)]) {
      closeSocket(fd);
    }
  }

  #observe(stimulus: Stimulus, isPatient: boolean): Observation {
    if (stimulus.kind === 'connect') {
      this.#forgetHalfOpen();
    }
    this.#takePassages();
    for (const fd of this.#takeReceived().accepted) {
      closeQuietly(fd);
    }
    const opened = this.#apply(stimulus);
    const passages = this.#takeAllPassages(isPatient);
    const { texts: received, accepted, datagrams } = this.#takeReceived();
    let call = opened.fd === null || stimulus.kind !== 'connect' ? opened.call : describeConnect(opened.fd, opened.call);
    let client = opened.fd;
    if (stimulus.kind === 'connect' && stimulus.then !== undefined && client !== null && call === 'ok' && accepted.length === 1 && accepted[0] !== undefined) {
      const ends = { client, server: accepted[0] };
      for (const step of stimulus.then) {
        const arrived = converse(ends, step);
        passages.push(...this.#takeAllPassages(isPatient));
        if (!arrived()) {
          break;
        }
        flushAcknowledgements(ends);
        passages.push(...this.#takeAllPassages(isPatient));
        if (hasUnacknowledged(ends)) {
          break;
        }
      }
      if (stimulus.then.includes('resetClient') && ends.client < 0) {
        client = null;
      }
      accepted.splice(0, 1, ...(ends.server < 0 ? [] : [ends.server]));
      this.#network.namespaces.forEach(({ description }) => this.#halfOpen.add(description.name));
    }
    if (stimulus.kind === 'datagram') {
      for (const { fd, peer } of stimulus.isAnswered ? datagrams : []) {
        sendBytes(fd, Buffer.alloc(SENT_BYTES), peer);
        passages.push(...this.#takeAllPassages(isPatient));
      }
      received.push(...this.#takeReceived().texts);
      call = client === null ? call : describeDatagram(client, call);
    }
    const connections = this.#readConnections();
    for (const fd of [...accepted, ...(client === null ? [] : [client])]) {
      closeQuietly(fd);
    }
    for (const { namespace, start } of passages) {
      if (start.hook === 'OUTPUT' && start.packet.includes(' SYN,ACK ')) {
        this.#halfOpen.add(namespace);
      }
    }
    if (stimulus.kind === 'connect') {
      this.#forgetHalfOpen();
    }
    return { passages, received, call, connections };
  }

  /**
   * Forgets half-open connections: what a SYN of another connect(2) does to one depends on how far the clock has moved its
   * sequence number (net/ipv4/tcp_minisocks.c, tcp_check_req).
   */
  #forgetHalfOpen(): void {
    for (const name of this.#halfOpen) {
      this.#network.find(name).kernel.run(destroyHalfOpenConnections);
    }
    this.#halfOpen.clear();
  }

  #takeAllPassages(isPatient: boolean): Passage[] {
    const passages = this.#takePassages();
    for (let round = 0; isPatient && round < 2; round += 1) {
      pause(PATIENT_MILLISECONDS);
      passages.push(...this.#takePassages());
    }
    return passages;
  }

  #takePassages(): Passage[] {
    const passages: Passage[] = [];
    for (let events = 1; events > 0; ) {
      events = 0;
      for (const recorder of this.#recorders) {
        const taken = recorder.take();
        events += taken.events;
        passages.push(...taken.passages);
      }
    }
    return passages;
  }

  #apply(stimulus: Stimulus): { readonly fd: number | null; readonly call: string | null } {
    const namespace = this.#network.find(stimulus.namespace);
    switch (stimulus.kind) {
      case 'arrive':
        this.#arrive(namespace, stimulus);
        return { fd: null, call: null };
      case 'send':
        return { fd: null, call: this.#send(namespace, stimulus) };
      case 'connect':
        return connect(namespace, stimulus);
      case 'datagram':
        return sendDatagram(namespace, stimulus);
    }
  }

  /** Sends from the other end of the device, past the rules of that namespace. */
  #arrive(namespace: BuiltNamespace, { device, packet }: Extract<Stimulus, { kind: 'arrive' }>): void {
    const link = namespace.description.links.find(({ name }) => name === device);
    const peer = link === undefined ? undefined : peerOf(this.#network.world, link);
    if (link === undefined || peer === undefined) {
      throw new RangeError(`nothing can arrive at ${device}`);
    }
    const key = `${namespace.description.name} ${device}`;
    const other = this.#network.find(link.peer.namespace);
    let fd = this.#wires.get(key);
    if (fd === undefined) {
      fd = other.kernel.run(() => openWire(peer.name));
      this.#wires.set(key, fd);
    }
    const bytes = encodePacket(packet);
    const frame = Buffer.alloc(ETHERNET_BYTES + bytes.length);
    frame.set(linkDestination(packet.destination, link), 0);
    frame.set(macBytes(packet.macSource ?? peer.macAddress), 6);
    frame.writeUInt16BE(isIpv4(packet.source) ? 0x0800 : 0x86dd, 12);
    bytes.copy(frame, ETHERNET_BYTES);
    const sent = sendBytes(fd, frame);
    if (sent < 0) {
      throw new Error(`the packet cannot be sent to ${device}: errno ${-sent}`);
    }
  }

  #send(namespace: BuiltNamespace, { user, mark, packet }: Extract<Stimulus, { kind: 'send' }>): string {
    const family = isIpv4(packet.source) ? AF_INET : AF_INET6;
    const key = `${namespace.description.name} ${family} ${user.uid} ${user.gid}`;
    let fd = this.#rawSockets.get(key);
    if (fd === undefined) {
      fd = namespace.kernel.run(() => openAs(user, () => openSocket(family, SOCK_RAW, IPPROTO_RAW)));
      this.#rawSockets.set(key, fd);
    }
    setOption(fd, SOL_SOCKET, SO_MARK, mark);
    const sent = sendBytes(fd, encodePacket(packet), socketAddress(packet.destination, 0));
    return sent < 0 ? errnoName(-sent) : 'ok';
  }

  #takeReceived(): { readonly texts: string[]; readonly accepted: number[]; readonly datagrams: readonly { readonly fd: number; readonly peer: Uint8Array }[] } {
    const texts: string[] = [];
    const accepted: number[] = [];
    const datagrams: { fd: number; peer: Uint8Array }[] = [];
    for (const { namespace, description, fd } of this.#waiting) {
      const local = `${namespace} ${description.protocol} ${description.address}:${description.port}`;
      if (description.protocol === 'udp') {
        for (const peer of takeDatagrams(fd)) {
          texts.push(`${local} from ${endpointText(peer)}`);
          datagrams.push({ fd, peer });
        }
      } else {
        for (const connection of openAs(description, () => takeConnections(fd))) {
          texts.push(`${local} ${connection.text}`);
          accepted.push(connection.fd);
        }
      }
    }
    return { texts, accepted, datagrams };
  }

  #readConnections(): readonly ConnectionEntry[] {
    return this.#tables.flatMap(({ namespace, table }) => table.read().map((connection) => ({ namespace, text: writeConnection(connection) })));
  }
}

function deviceNames({ description, kernel }: BuiltNamespace): ReadonlyMap<number, string> {
  return kernel.run(() => new Map(['lo', ...description.links.map(({ name }) => name)].map((name) => [deviceIndex(name), name])));
}

function openWaitingSocket({ protocol, address, port, uid, gid, transparent }: JudgeSocket): number {
  const isV4 = isIpv4(address);
  const fd = openAs({ uid, gid }, () => openSocket(isV4 ? AF_INET : AF_INET6, protocol === 'tcp' ? SOCK_STREAM : SOCK_DGRAM, 0));
  setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (!isV4) {
    setOption(fd, SOL_IPV6, IPV6_V6ONLY, 1);
  }
  if (transparent) {
    setOption(fd, isV4 ? SOL_IP : SOL_IPV6, isV4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, 1);
  }
  demand(`bind to ${address}:${port}`, bindSocket(fd, socketAddress(address, port)));
  if (protocol === 'tcp') {
    demand('listen', listenSocket(fd));
  }
  return fd;
}

function connect(namespace: BuiltNamespace, client: JudgeClient, type = SOCK_STREAM, protocol = 0): { readonly fd: number | null; readonly call: string } {
  const { user, mark, device, address, port, destination } = client;
  const isV4 = isIpv4(destination.address);
  const fd = namespace.kernel.run(() => openAs(user, () => openSocket(isV4 ? AF_INET : AF_INET6, type, protocol)));
  setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  setOption(fd, SOL_SOCKET, SO_MARK, mark);
  if (type === SOCK_STREAM) {
    // Each write is a segment of its own, whether the one before was acknowledged or not.
    setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  }
  if (device !== undefined) {
    setOptionBytes(fd, SOL_SOCKET, SO_BINDTODEVICE, Buffer.from(`${device}\0`));
  }
  const bound = bindSocket(fd, socketAddress(address ?? toIpAddress(isV4 ? '0.0.0.0' : '::'), port));
  const result = bound < 0 ? bound : connectSocket(fd, socketAddress(destination.address, destination.port));
  if (result < 0 && result !== -constants.errno.EINPROGRESS) {
    closeSocket(fd);
    return { fd: null, call: errnoName(-result) };
  }
  return { fd, call: 'waits' };
}

/** SO_ERROR tells of what a connection only took notice of as well (net/core/sock.c, sk_err_soft): it counts where there is no connection. */
/** Connects a datagram socket and sends ten bytes, or an echo request with as many. */
function sendDatagram(namespace: BuiltNamespace, stimulus: Extract<Stimulus, { kind: 'datagram' }>): { readonly fd: number | null; readonly call: string } {
  const isV4 = isIpv4(stimulus.destination.address);
  const isPing = stimulus.protocol === 'icmp';
  const opened = connect(namespace, stimulus, SOCK_DGRAM, isPing ? (isV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) : 0);
  if (opened.fd === null) {
    return opened;
  }
  const bytes = Buffer.alloc(SENT_BYTES + (isPing ? ECHO_BYTES : 0));
  bytes[0] = isPing ? (isV4 ? ECHO_REQUEST : ECHO_REQUEST_6) : 0;
  const sent = sendBytes(opened.fd, bytes);
  return { fd: opened.fd, call: sent < 0 ? errnoName(-sent) : 'ok' };
}

/** What became of what a datagram socket sent: an answer, or an error. */
function describeDatagram(fd: number, call: string | null): string | null {
  const error = readError(fd);
  return error !== 0 ? `${call ?? ''}, then ${errnoName(error)}` : receiveBytes(fd, new Uint8Array(2_048)) >= 0 ? `${call ?? ''}, answered` : call;
}

/** The two ends of a connection; one that was reset is negative. */
interface Ends {
  client: number;
  server: number;
}

/** Does one step of a conversation; what it gives tells whether the other end has seen it. */
function converse(ends: Ends, step: ConversationStep): () => boolean {
  const bytes = new Uint8Array(SENT_BYTES);
  const reset = (end: 'client' | 'server'): void => {
    setOptionBytes(ends[end], SOL_SOCKET, SO_LINGER, new Uint8Array(Int32Array.of(1, 0).buffer));
    closeSocket(ends[end]);
    ends[end] = -1;
  };
  switch (step) {
    case 'send':
      sendBytes(ends.client, bytes);
      return () => receiveBytes(ends.server, bytes) === SENT_BYTES;
    case 'answer':
      sendBytes(ends.server, bytes);
      return () => receiveBytes(ends.client, bytes) === SENT_BYTES;
    case 'finClient':
      endSending(ends.client);
      return () => receiveBytes(ends.server, bytes) === 0;
    case 'finServer':
      endSending(ends.server);
      return () => receiveBytes(ends.client, bytes) === 0;
    case 'resetClient':
      reset('client');
      return () => false;
    case 'resetServer':
      reset('server');
      return () => false;
  }
}

/** TCP acknowledges later where it hopes to send something along: here it does at once. */
function flushAcknowledgements({ client, server }: Ends): void {
  for (const fd of [client, server]) {
    setOption(fd, IPPROTO_TCP, TCP_QUICKACK, 1);
  }
}

/** What was not acknowledged is sent again, and what is small waits for it: nothing more is said then. */
function hasUnacknowledged({ client, server }: Ends): boolean {
  return [client, server].some((fd) => {
    const info = readOption(fd, IPPROTO_TCP, TCP_INFO, UNACKNOWLEDGED_OFFSET + 4);
    return info !== null && new DataView(info.buffer, info.byteOffset).getUint32(UNACKNOWLEDGED_OFFSET, true) > 0;
  });
}

function readError(fd: number): number {
  const error = readOption(fd, SOL_SOCKET, SO_ERROR, 4);
  return error === null ? 0 : new DataView(error.buffer).getInt32(0, true);
}

function describeConnect(fd: number, call: string | null): string | null {
  if (readOption(fd, IPPROTO_TCP, TCP_INFO, 8)?.[0] === TCP_ESTABLISHED) {
    return 'ok';
  }
  const errno = readError(fd);
  return errno === 0 ? call : errnoName(errno);
}

function takeConnections(fd: number): { readonly text: string; readonly fd: number }[] {
  const connections: { text: string; fd: number }[] = [];
  for (;;) {
    const accepted = acceptSocket(fd);
    if (accepted.fd < 0) {
      return connections;
    }
    const isV4 = accepted.peer[0] === AF_INET;
    const original = readOption(accepted.fd, isV4 ? SOL_IP : SOL_IPV6, ORIGINAL_DESTINATION, isV4 ? 16 : 28);
    connections.push({ fd: accepted.fd, text: `from ${endpointText(accepted.peer)} original ${original === null ? 'none' : endpointText(original)}` });
  }
}

function takeDatagrams(fd: number): Uint8Array[] {
  const peers: Uint8Array[] = [];
  const bytes = new Uint8Array(2_048);
  for (;;) {
    const { count, from } = receiveFrom(fd, bytes);
    if (count < 0) {
      return peers;
    }
    peers.push(from.subarray(0, from[0] === AF_INET ? 16 : 28));
  }
}

function closeQuietly(fd: number): void {
  if (readOption(fd, SOL_SOCKET, SO_TYPE, 4)?.[0] === SOCK_STREAM) {
    setOption(fd, IPPROTO_TCP, TCP_REPAIR, 1);
  }
  closeSocket(fd);
}

function openWire(device: string): number {
  const fd = openSocket(AF_PACKET, SOCK_RAW, 0);
  const address = new Uint8Array(20);
  const view = new DataView(address.buffer);
  view.setUint16(0, AF_PACKET, true);
  view.setInt32(4, deviceIndex(device), true);
  demand(`bind to ${device}`, bindSocket(fd, address));
  return fd;
}

function endpointText(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const isV4 = view.getUint16(0, true) === AF_INET;
  return `${formatIpAddress(isV4 ? bytes.subarray(4, 8) : bytes.subarray(8, 24))}:${view.getUint16(2)}`;
}

/** Where a link layer sends a packet: to the device itself, or to all or many (RFC 1112, 6.4; RFC 2464, 7). */
function linkDestination(destination: IpAddress, { macAddress, addresses }: JudgeLink): Uint8Array {
  const bytes = ipAddressBytes(destination);
  const networks = addresses.filter(({ address, prefixLength }) => prefixLength === 24 && isIpv4(address)).map(({ address }) => address.replace(/\d+$/, '255'));
  if (destination === '255.255.255.255' || networks.includes(destination)) {
    return new Uint8Array(6).fill(0xff);
  }
  const [first = 0, second = 0, third = 0, fourth = 0] = bytes;
  if (isIpv4(destination)) {
    return first >> 4 === 0xe ? Uint8Array.of(1, 0, 0x5e, second & 0x7f, third, fourth) : macBytes(macAddress);
  }
  return first === 0xff ? Uint8Array.of(0x33, 0x33, ...bytes.subarray(12)) : macBytes(macAddress);
}

function macBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16));
}

function errnoName(errno: number): string {
  return ERRNO_NAMES.get(errno) ?? String(errno);
}

function demand(what: string, result: number): void {
  if (result < 0) {
    throw new Error(`${what}: ${errnoName(-result)}`);
  }
}
