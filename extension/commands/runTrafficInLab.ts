import * as vscode from 'vscode';
import { LAB_RUN_LIMITS } from '../../agent/protocol/lab.ts';
import type { LabInfo, LabPodInfo } from '../../agent/protocol/lab.ts';
import { writeLabDocument } from '../views/labDocument.ts';
import { chooseReadyNode } from './choose.ts';
import { chooseLab } from './chooseLab.ts';
import { withCancellableProgress } from './progress.ts';
import type { Services } from './services.ts';

const TITLE = 'Run Traffic in Lab';
const DEFAULT_CONNECTIONS = 20;
const BYTES = 1_024;
const PARALLEL = 4;

/** Asks between which pods, runs traffic, and shows what each end saw as a document. */
export async function runTrafficInLab(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const lab = await chooseLab(chosen, argument, TITLE, false);
  const traffic = lab === undefined ? undefined : await askForTraffic(lab);
  if (lab === undefined || traffic === undefined) {
    return;
  }
  const { label } = chosen.known.session;
  const report = await withCancellableProgress(`Running traffic in the lab ${lab.name} at ${label}`, (signal) =>
    chosen.node.call('runInLab', { name: lab.name, bytes: BYTES, parallel: PARALLEL, ...traffic }, { signal }),
  );
  services.log.info(`${label}: ran traffic in the lab ${lab.name}: ${report.exact} connections exact, ${report.failures.reduce((sum, { count }) => sum + count, 0)} not`);
  await services.reportDocuments.show(chosen.known.key, `Traffic in ${lab.name} of ${label}`, writeLabDocument(label, report));
  services.directory.refresh(chosen.known.key);
}

async function askForTraffic(lab: LabInfo): Promise<{ readonly from: string; readonly to: string; readonly connections: number } | undefined> {
  const from = await pickPod(lab.pods, 'Whose client connects?');
  const to = from === undefined ? undefined : await pickPod([...lab.pods.filter(({ name }) => name !== from), ...lab.pods.filter(({ name }) => name === from)], 'To whose server?');
  const connections =
    to === undefined
      ? undefined
      : await vscode.window.showInputBox({ title: TITLE, prompt: `How many connections? At most ${LAB_RUN_LIMITS.connections}`, value: String(DEFAULT_CONNECTIONS), validateInput: checkConnections });
  return from === undefined || to === undefined || connections === undefined ? undefined : { from, to, connections: Number(connections) };
}

async function pickPod(pods: readonly LabPodInfo[], placeHolder: string): Promise<string | undefined> {
  const picked = await vscode.window.showQuickPick(
    pods.map(({ name, server }) => ({ label: name, description: `${server.address}:${server.port}` })),
    { title: TITLE, placeHolder },
  );
  return picked?.label;
}

function checkConnections(text: string): string | null {
  const count = Number(text);
  return Number.isInteger(count) && count >= 1 && count <= LAB_RUN_LIMITS.connections ? null : `Give a whole number from 1 to ${LAB_RUN_LIMITS.connections}.`;
}
