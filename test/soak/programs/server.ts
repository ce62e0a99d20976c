import { ByteStream, readHeaderSeed, REQUEST_HEADER_BYTES, requestHeader, responseHeader } from './byteStream.ts';
import { Conversation } from './conversation.ts';
import type { Script } from './conversation.ts';
import { EventLoop, READABLE } from './eventLoop.ts';
import { planOf } from './plan.ts';
import { acceptSocket, listenOn } from './rawSocket.ts';
import type { ServerParams } from './reports.ts';
import { Tally } from './tally.ts';

/** Answers soak clients; on its second port it speaks first. Ends when it is killed. */

const HUNG_MILLISECONDS = 40_000;

const params = JSON.parse(process.argv[2] ?? '') as ServerParams;
const loop = new EventLoop();
const tally = new Tally();
const tag = (params.tag << 28) >>> 0;
let greetings = 0;

listen(params.port, () => 0);
listen(params.greetingPort, () => (tag | (++greetings & 0x0fff_ffff)) >>> 0);
setInterval(() => {
  tally.checkDeadlines(HUNG_MILLISECONDS);
  tally.print();
}, 100);
tally.print();
loop.start();

function listen(port: number, nextGreeting: () => number): void {
  const fd = listenOn({ address: params.address, port });
  loop
    .watch(fd, () => {
      for (let accepted = acceptSocket(fd); accepted >= 0; accepted = acceptSocket(fd)) {
        converse(accepted, nextGreeting());
      }
    })
    .want(READABLE);
}

/** `greeting`: the seed of what this server says first; 0: nothing. */
function converse(fd: number, greeting: number): void {
  const conversation = new Conversation({
    role: 'server',
    fd,
    loop,
    script: null,
    greeting: greeting === 0 ? null : greetingStream(greeting),
    header: { length: REQUEST_HEADER_BYTES, read: (header) => readRequest(header, greeting) },
    onEnd: (ended, outcome) => {
      tally.end(ended, outcome);
    },
  });
  tally.begin(conversation);
  conversation.start();
}

function readRequest(header: Buffer, greeting: number): Script | string {
  const seed = readHeaderSeed(header);
  if (seed === null || (seed & 0xf000_0000) >>> 0 !== tag || !header.equals(requestHeader(seed, greeting))) {
    return `a request began with ${header.toString('hex')}; the greeting was ${greeting}`;
  }
  const plan = planOf(seed);
  return {
    plan,
    outgoing:
      greeting !== 0
        ? greetingStream(greeting)
        : plan.ending === 'client_leaves'
          ? null
          : new ByteStream('response', seed, responseHeader(seed), plan.responseBytes),
    incoming: new ByteStream('request', seed, requestHeader(seed, greeting), plan.requestBytes),
  };
}

function greetingStream(seed: number): ByteStream {
  return new ByteStream('response', seed, responseHeader(seed), planOf(seed).responseBytes);
}
