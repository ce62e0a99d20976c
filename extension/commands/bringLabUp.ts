import * as vscode from 'vscode';
import { MESH_PROFILES } from '../../agent/protocol/acceleration.ts';
import { DEFAULT_LAB_NAME, LAB_PATHS, LAB_POD_LIMITS, LAB_SIDECARS } from '../../agent/protocol/lab.ts';
import type { LabPath, LabRequest, LabSidecarName } from '../../agent/protocol/lab.ts';
import { chooseReadyNode, type ReadyNode } from './choose.ts';
import { withCancellableProgress, withViewProgress } from './progress.ts';
import type { Services } from './services.ts';

const TITLE = 'Bring Lab Up';

const PATH_TEXTS: Readonly<Record<LabPath, { readonly label: string; readonly detail: string }>> = {
  iptables: { label: 'iptables', detail: "The mesh's own rules in every pod; acceleration can be turned on beside them" },
  ebpf: { label: 'eBPF', detail: 'No rules: programs that stay with the lab lead traffic to the sidecars, and from socket to socket' },
  none: { label: 'none', detail: 'Nothing leads traffic to the sidecars' },
};
const SIDECAR_TEXTS: Readonly<Record<LabSidecarName, string>> = {
  builtin: 'A small one of Meshpath: needs nothing on the node',
  haproxy: 'HAProxy of the node (package haproxy)',
  redsocks: 'redsocks of the node (package redsocks)',
  none: 'The ports of the mesh stay free for one that you start',
};

/** Asks what the lab is to be, confirms, and makes it. */
export async function bringLabUp(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const labs = await withViewProgress(() => chosen.node.call('listLabs', {}));
  const request = await askForLab(services, new Set(labs.map(({ name }) => name)));
  if (request === undefined || !(await confirm(chosen, request))) {
    return;
  }
  const { label } = chosen.known.session;
  services.log.info(`${label}: bringing up the lab ${request.name}: ${request.pods} pods, ${request.profile}, ${request.path}`);
  const lab = await withCancellableProgress(`Bringing up the lab ${request.name} at ${label}`, async (signal, report) => {
    const unlisten = chosen.node.listen('labProgress', ({ name, text, done, total }) => {
      if (name === request.name) {
        report(`${text} (${done} of ${total})`);
      }
    });
    try {
      return await chosen.node.call('bringLabUp', request, { signal });
    } finally {
      unlisten();
    }
  });
  services.log.info(`${label}: the lab ${lab.name} is up: ${lab.pods.map(({ name, address }) => `${name} ${address}`).join(', ')}`);
  services.directory.refresh(chosen.known.key);
}

/** Asks for each part of a lab; undefined where one was dismissed. */
async function askForLab(services: Services, taken: ReadonlySet<string>): Promise<LabRequest | undefined> {
  const mesh = await vscode.window.showQuickPick(
    MESH_PROFILES.map(({ name, outboundPort, inboundPort }) => ({ label: name, description: `sidecar at ports ${outboundPort} and ${inboundPort}` })),
    { title: `${TITLE} (1/4)`, placeHolder: 'Which mesh?' },
  );
  const path =
    mesh === undefined
      ? undefined
      : await vscode.window.showQuickPick(LAB_PATHS.map((value) => ({ ...PATH_TEXTS[value], value })), { title: `${TITLE} (2/4)`, placeHolder: 'What leads traffic to the sidecars?' });
  const sidecar =
    path === undefined
      ? undefined
      : await vscode.window.showQuickPick(LAB_SIDECARS.map((label) => ({ label, detail: SIDECAR_TEXTS[label] })), { title: `${TITLE} (3/4)`, placeHolder: 'Which sidecar?' });
  const pods =
    sidecar === undefined
      ? undefined
      : await vscode.window.showInputBox({ title: `${TITLE} (4/4)`, prompt: `How many pods? ${LAB_POD_LIMITS.least} to ${LAB_POD_LIMITS.most}`, value: String(LAB_POD_LIMITS.least), validateInput: checkPods });
  if (mesh === undefined || path === undefined || sidecar === undefined || pods === undefined) {
    return undefined;
  }
  const rules = path.value === 'iptables' ? await services.generateRules(mesh.label) : null;
  return { name: freeName(taken), pods: Number(pods), profile: mesh.label, path: path.value, rules, sidecar: sidecar.label };
}

function checkPods(text: string): string | null {
  const pods = Number(text);
  return Number.isInteger(pods) && pods >= LAB_POD_LIMITS.least && pods <= LAB_POD_LIMITS.most ? null : `Give a whole number from ${LAB_POD_LIMITS.least} to ${LAB_POD_LIMITS.most}.`;
}

/** Gives the first of `lab`, `lab-2`, `lab-3` that no lab has. */
function freeName(taken: ReadonlySet<string>): string {
  let name = DEFAULT_LAB_NAME;
  for (let number = 2; taken.has(name); number += 1) {
    name = `${DEFAULT_LAB_NAME}-${number}`;
  }
  return name;
}

async function confirm(chosen: ReadyNode, request: LabRequest): Promise<boolean> {
  if (chosen.known.session.target.kind === 'simulated') {
    return true;
  }
  const answer = await vscode.window.showWarningMessage(
    `Bring up the lab ${request.name} at ${chosen.known.session.label}?`,
    {
      modal: true,
      detail: [
        'This makes on the node, all under names that begin with meshpath-lab-:',
        `• ${request.pods + 1} network namespaces on a bridge of their own, without a way to any other network`,
        `• ${request.pods} cgroups with an echo server and a sidecar (${typeof request.sidecar === 'string' ? request.sidecar : request.sidecar.command.join(' ')}) each`,
        ...(request.path === 'iptables' ? [`• the iptables rules of ${request.profile} in those namespaces only`] : []),
        ...(request.path === 'ebpf' ? ['• eBPF programs for those cgroups, pinned until the lab is taken down'] : []),
        '',
        'It stays until you take it down, also when you disconnect.',
      ].join('\n'),
    },
    'Bring Up',
  );
  return answer === 'Bring Up';
}
