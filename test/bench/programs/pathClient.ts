import { closeSocket, startConnecting } from '../../soak/programs/rawSocket.ts';
import { encodePlan } from './pathPlan.ts';
import type { PathClientParams, PathPlan, PathReport } from './pathPlan.ts';
import { receiveAll, sendAll } from './pathSocket.ts';

/** The client's end of a path that is measured. It prints a report and ends. */

const { address, port, plan, connections, warmUp } = JSON.parse(process.argv[2] ?? '') as PathClientParams;
const nanoseconds: number[] = [];
for (let connection = 0; connection < warmUp + connections; connection += 1) {
  const started = process.hrtime.bigint();
  const fd = startConnecting({ address, port }, { blocks: true });
  if (fd < 0) {
    throw new Error(`connect: errno ${-fd}`);
  }
  const times = exercise(fd, plan);
  closeSocket(fd);
  if (connection >= warmUp) {
    nanoseconds.push(...(connections > 1 ? [Number(process.hrtime.bigint() - started)] : times));
  }
}
const report: PathReport = { nanoseconds };
console.log(JSON.stringify(report));

function exercise(fd: number, { exercise: kind, bytes, count }: PathPlan): readonly number[] {
  const times: number[] = [];
  const message = new Uint8Array(bytes).fill(7);
  const answer = new Uint8Array(bytes);
  sendAll(fd, encodePlan({ exercise: kind, bytes, count }));
  const started = process.hrtime.bigint();
  let before = started;
  for (let round = 0; round < count; round += 1) {
    sendAll(fd, message);
    if (kind === 'round-trips') {
      expectAll(receiveAll(fd, answer));
      const now = process.hrtime.bigint();
      times.push(Number(now - before));
      before = now;
    }
  }
  if (kind === 'stream') {
    expectAll(receiveAll(fd, new Uint8Array(1)));
    times.push(Number(process.hrtime.bigint() - started));
  }
  return times;
}

function expectAll(isAll: boolean): void {
  if (!isAll) {
    throw new Error('the connection ended early');
  }
}
