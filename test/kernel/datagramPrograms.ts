import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { APPLICATION_IDENTITY } from '../../agent/lab/pod.ts';
import type { LabPod } from '../../agent/lab/pod.ts';
import type { ProgramIdentity } from '../../agent/lab/programs/reports.ts';
import type { DatagramClientParams, DatagramResult, DatagramStep } from './datagramClient.ts';
import type { DnsQuestion, DnsServerParams } from './dnsServer.ts';

const CLIENT = fileURLToPath(new URL('datagramClient.ts', import.meta.url));
const DNS_SERVER = fileURLToPath(new URL('dnsServer.ts', import.meta.url));
/** Both become their user themselves: their modules may be in a folder that only root can read. */
const ROOT_IDENTITY: ProgramIdentity = { uid: 0, gid: 0 };

/** A resolver that runs, with what it was asked. */
export interface DnsServer {
  readonly questions: DnsQuestion[];
}

/** Starts a resolver in a pod and waits until it listens. */
export async function startDnsServer(pod: LabPod, params: DnsServerParams): Promise<DnsServer> {
  const server = await pod.start([process.execPath, '--import', 'tsx', DNS_SERVER, JSON.stringify(params)], { identity: ROOT_IDENTITY });
  const questions: DnsQuestion[] = [];
  const complaint = text(server.stderr);
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: server.stdout }).on('line', (line) => {
      if (line === 'ready') {
        resolve();
      } else {
        questions.push(JSON.parse(line) as DnsQuestion);
      }
    });
    complaint.then((words) => {
      reject(new Error(`a resolver ended: ${words}`));
    }, reject);
  });
  return { questions };
}

/** A client that runs. */
export interface DatagramClient {
  /** Resolves when it waits at a gate. */
  readonly waiting: Promise<void>;
  readonly results: Promise<DatagramResult[]>;
}

/** Starts a client in a pod. */
export async function startDatagramClient(pod: LabPod, steps: readonly DatagramStep[], identity: ProgramIdentity = APPLICATION_IDENTITY, endsAtError = false): Promise<DatagramClient> {
  const params: DatagramClientParams = { identity, steps, endsAtError };
  const file = join(tmpdir(), `meshpath-test-${process.pid}-${randomUUID()}.json`);
  writeFileSync(file, JSON.stringify(params));
  const client = await pod.start([process.execPath, '--import', 'tsx', CLIENT, file], { identity: ROOT_IDENTITY });
  const complaint = text(client.stderr);
  const lines = createInterface({ input: client.stdout });
  const waiting = new Promise<void>((resolve) => {
    lines.on('line', (line) => {
      if (line === 'waiting') {
        resolve();
      }
    });
  });
  let printed: DatagramResult[] | undefined;
  lines.on('line', (line) => {
    if (line.startsWith('[')) {
      printed = JSON.parse(line) as DatagramResult[];
    }
  });
  // Not when it has printed them: its sockets are closed, and what the programs know of them is gone, when it has ended.
  const results = once(client, 'close').then(async () => {
    if (printed === undefined) {
      throw new Error(`the client failed: ${await complaint}`);
    }
    return printed;
  });
  return { waiting: Promise.race([waiting, results.then(() => undefined)]), results };
}
