import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { becomeUser } from '../../agent/lab/programs/program.ts';
import type { ProgramIdentity } from '../../agent/lab/programs/reports.ts';
import { ipAddressBytes, toIpAddress } from '../../agent/protocol/ipAddress.ts';

/**
 * A resolver: answers every question for an A record with its own `answer`, over UDP and TCP; names that begin with `large` get
 * 100 of them, which is truncated where the asker takes less (RFC 6891); those that begin with `slow` after a second; what is no
 * question is sent back behind the server's name. Run as a program with DnsServerParams as JSON; prints a line for each question.
 */
export interface DnsServerParams {
  readonly identity: ProgramIdentity;
  /** Before texts that are sent back. */
  readonly name: string;
  readonly addresses: readonly string[];
  readonly port: number;
  /** The address in the answers. */
  readonly answer: string;
}

/** A line that it prints. */
export interface DnsQuestion {
  readonly over: 'udp' | 'tcp';
  readonly text: string;
  readonly peer: string;
}

const HEADER_BYTES = 12;
const TYPE_A = 1;
const TYPE_OPT = 41;
const LARGE_RECORDS = 100;
const PLAIN_UDP_BYTES = 512;
const SLOW_MILLISECONDS = 1_000;
const TRUNCATED = 0x0200;

interface Question {
  readonly name: string;
  readonly type: number;
  /** Where the question ends. */
  readonly end: number;
  /** The largest answer over UDP. */
  readonly maxBytes: number;
}

function readQuestion(bytes: Buffer): Question | undefined {
  if (bytes.length < HEADER_BYTES + 5 || bytes.readUInt16BE(4) !== 1) {
    return undefined;
  }
  const labels: string[] = [];
  let at = HEADER_BYTES;
  for (let length = bytes[at] ?? 0; length > 0 && length < 64; length = bytes[at] ?? 0) {
    labels.push(bytes.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  const end = at + 5;
  const hasOptions = bytes.readUInt16BE(10) === 1 && end + 5 <= bytes.length && bytes.readUInt16BE(end + 1) === TYPE_OPT;
  return { name: labels.join('.'), type: bytes.readUInt16BE(at + 1), end, maxBytes: hasOptions ? bytes.readUInt16BE(end + 3) : PLAIN_UDP_BYTES };
}

function writeAnswer(request: Buffer, { name, type, end, maxBytes }: Question, answer: Uint8Array, over: 'udp' | 'tcp'): Buffer {
  const count = type === TYPE_A ? (name.startsWith('large') ? LARGE_RECORDS : 1) : 0;
  const record = Buffer.from([0xc0, HEADER_BYTES, 0, TYPE_A, 0, 1, 0, 0, 0, 60, 0, 4, ...answer]);
  const records = Buffer.concat(Array.from({ length: count }, (_, index) => Buffer.from(record.map((byte, at) => (at === 15 && count > 1 ? index : byte)))));
  const isTruncated = over === 'udp' && end + records.length > maxBytes;
  const reply = Buffer.concat([request.subarray(0, end), isTruncated ? Buffer.alloc(0) : records]);
  reply.writeUInt16BE(0x8180 | (isTruncated ? TRUNCATED : 0), 2);
  reply.writeUInt16BE(isTruncated ? 0 : count, 6);
  reply.writeUInt32BE(0, 8);
  return reply;
}

async function main(params: DnsServerParams): Promise<void> {
  becomeUser(params.identity);
  const answer = ipAddressBytes(toIpAddress(params.answer));
  const reply = (request: Buffer, over: 'udp' | 'tcp', peer: string, send: (bytes: Buffer) => void): void => {
    const question = readQuestion(request);
    const line: DnsQuestion = { over, text: question?.name ?? request.toString('latin1'), peer };
    // Not writeSync, which fails where whoever reads is late.
    process.stdout.write(`${JSON.stringify(line)}\n`);
    const bytes = question === undefined ? Buffer.from(`${params.name}:${line.text}`) : writeAnswer(request, question, answer, over);
    setTimeout(() => {
      send(bytes);
    }, line.text.startsWith('slow') ? SLOW_MILLISECONDS : 0);
  };
  for (const address of params.addresses) {
    const udp = createSocket({ type: address.includes(':') ? 'udp6' : 'udp4', ipv6Only: address.includes(':') });
    udp.on('message', (request, { address: peer, port }) => {
      reply(request, 'udp', peer, (bytes) => {
        udp.send(bytes, port, peer);
      });
    });
    udp.bind(params.port, address);
    await once(udp, 'listening');
    const tcp = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (data) => {
        // Questions over TCP have their length in front (RFC 1035, 4.2.2), and are so short that they come as one.
        reply(data.subarray(2), 'tcp', socket.remoteAddress ?? '', (bytes) => {
          socket.write(Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 0xff]), bytes]));
        });
      });
    });
    tcp.listen({ port: params.port, host: address, ipv6Only: true });
    await once(tcp, 'listening');
  }
  process.stdout.write('ready\n');
}

await main(JSON.parse(process.argv[2] ?? '') as DnsServerParams);
