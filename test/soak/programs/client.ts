import { getSystemErrorName } from 'node:util';
import { ByteStream, readHeaderSeed, requestHeader, RESPONSE_HEADER_BYTES, responseHeader } from './byteStream.ts';
import { Conversation } from './conversation.ts';
import type { Script } from './conversation.ts';
import { EventLoop, WRITABLE } from './eventLoop.ts';
import { planOf } from './plan.ts';
import type { Plan } from './plan.ts';
import { closeSocket, NO_PORT, readSocketError, startConnecting } from './rawSocket.ts';
import type { ClientParams } from './reports.ts';
import { Tally } from './tally.ts';

/** Opens connections to a soak server, several at a time, each with a plan of its own. */

const HUNG_MILLISECONDS = 30_000;
const PORT_RETRY_MILLISECONDS = 20;

const params = JSON.parse(process.argv[2] ?? '') as ClientParams;
const loop = new EventLoop();
const tally = new Tally();
const startedAt = Math.max(Date.now(), params.startAt);
let opened = 0;
let connecting = 0;

setTimeout(() => {
  for (let index = 0; index < params.concurrency; index += 1) {
    openNext();
  }
}, startedAt - Date.now());
setInterval(() => {
  tally.checkDeadlines(HUNG_MILLISECONDS);
  tally.print();
}, 250);
loop.start();

function openNext(): void {
  const isOver = params.seconds > 0 && Date.now() - startedAt > params.seconds * 1_000;
  if (opened < params.connections && !isOver) {
    const index = opened;
    opened += 1;
    connecting += 1;
    // The tag in the highest bits stays as it is.
    const tag = params.firstSeed & 0xf000_0000;
    open(planOf((tag | ((params.firstSeed + index) & 0x0fff_ffff)) >>> 0), index);
  } else if (connecting === 0 && tally.openConversations === 0) {
    tally.print(true, (Date.now() - startedAt) / 1_000);
    process.exit(0);
  }
}

function open(plan: Plan, index: number): void {
  const { local } = params;
  const fd = startConnecting(
    { address: params.address, port: plan.isServerFirst ? params.greetingPort : params.port },
    {
      delaysAck: plan.delaysAck,
      ...(local === null ? {} : { local: { address: local.address, port: local.ports === 0 ? 0 : local.firstPort + (index % local.ports) } }),
    },
  );
  if (fd === NO_PORT) {
    // As many are in TIME_WAIT as there are ports.
    setTimeout(() => {
      open(plan, index);
    }, PORT_RETRY_MILLISECONDS);
    return;
  }
  if (fd < 0) {
    endConnecting(plan, getSystemErrorName(fd));
    return;
  }
  const timer = setTimeout(() => {
    watch.end();
    closeSocket(fd);
    endConnecting(plan, 'no answer');
  }, HUNG_MILLISECONDS);
  const watch = loop.watch(fd, () => {
    clearTimeout(timer);
    watch.end();
    const error = readSocketError(fd);
    if (error === 0) {
      connecting -= 1;
      converse(fd, plan);
    } else {
      closeSocket(fd);
      endConnecting(plan, getSystemErrorName(error));
    }
  });
  watch.want(WRITABLE);
}

function endConnecting(plan: Plan, detail: string): void {
  connecting -= 1;
  tally.refuse(plan.seed, detail);
  openNext();
}

function converse(fd: number, plan: Plan): void {
  const conversation = new Conversation({
    role: 'client',
    fd,
    loop,
    script: plan.isServerFirst ? null : scriptOf(plan),
    header: plan.isServerFirst ? { length: RESPONSE_HEADER_BYTES, read: (header) => greetedScriptOf(plan, header) } : null,
    onEnd: (ended, outcome) => {
      tally.end(ended, outcome);
      openNext();
    },
  });
  tally.begin(conversation);
  conversation.start();
}

function scriptOf(plan: Plan): Script {
  return {
    plan,
    outgoing: new ByteStream('request', plan.seed, requestHeader(plan.seed, 0), plan.requestBytes),
    incoming: plan.ending === 'client_leaves' ? null : new ByteStream('response', plan.seed, responseHeader(plan.seed), plan.responseBytes),
  };
}

/** The server speaks first, by a plan of its own; the request says whose greeting it answers. */
function greetedScriptOf(plan: Plan, header: Buffer): Script | string {
  const seed = readHeaderSeed(header);
  if (seed === null) {
    return `the greeting began with ${header.toString('hex')}`;
  }
  return {
    plan,
    outgoing: new ByteStream('request', plan.seed, requestHeader(plan.seed, seed), plan.requestBytes),
    incoming: new ByteStream('response', seed, responseHeader(seed), planOf(seed).responseBytes),
  };
}
