import * as vscode from 'vscode';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { Services } from './services.ts';

/** Forgets the keys of a host that were accepted in Meshpath; those of known_hosts are the user's own. */
export async function forgetHostKey(services: Services): Promise<void> {
  const keys = services.trustStore.list();
  if (keys.length === 0) {
    throw new MeshpathError({
      code: 'INPUT_INVALID',
      message: 'Meshpath keeps no host key.',
      reason: 'None was accepted in Meshpath; keys in known_hosts belong to OpenSSH.',
      remedy: 'To remove a key from known_hosts run: ssh-keygen -R HOST',
    });
  }
  const hosts = new Map(keys.map((key) => [`${key.host}:${key.port}`, key]));
  const picked = await vscode.window.showQuickPick(
    [...hosts].map(([label, key]) => ({ label, description: key.keyType, detail: `Accepted ${key.acceptedAt}`, key })),
    { title: 'Forget a Host Key', placeHolder: 'The next connection asks again about the key of this host' },
  );
  if (picked !== undefined) {
    const count = await services.trustStore.forget(picked.key.host, picked.key.port);
    services.log.info(`Forgot ${count} host ${count === 1 ? 'key' : 'keys'} of ${picked.label}`);
    void vscode.window.showInformationMessage(`The keys of ${picked.label} are forgotten.`);
  }
}
