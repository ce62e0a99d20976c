import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { AgentBundle, AgentFile } from './agentBundle.ts';
import type { Findings } from './preflight.ts';
import type { NodeRuntime } from './remoteNodeRuntime.ts';
import { printable, quoteForShell, runScript } from './shellScript.ts';
import type { Transport } from './transport.ts';

/** How many versions of the agent stay on a node: this one and the one used before. */
const KEPT_VERSIONS = 2;
const INSTALL_TIMEOUT_MS = 120_000;

/** Gives the folder of this agent on a node, below the user's folder of cached files. */
export function agentFolderOnNode(cacheFolder: string, contentHash: string): string {
  return `${cacheFolder}/meshpath/agent/${contentHash}`;
}

/**
 * Gives the part of the preflight script that lists the checksums of an installed agent and marks it as used now. It
 * comes after the part that sets `cache_folder`.
 */
export function buildInstalledCheck(contentHash: string): string {
  return `
agent_folder=$cache_folder/meshpath/agent/${contentHash}
if [ -d "$agent_folder" ]; then
  touch "$agent_folder" 2>/dev/null
  (cd "$agent_folder" && sha256sum -- * 2>/dev/null) | while read -r agent_sum agent_name; do say agent-file "$agent_sum $agent_name"; done
fi
`;
}

/** Says whether the agent is on the node already with every file that it needs intact. */
export function isInstalled(findings: Findings, files: readonly AgentFile[]): boolean {
  const present = new Set(findings.get('agent-file'));
  return files.every(({ name, sha256 }) => present.has(`${sha256} ${name}`));
}

/**
 * Installs the agent on a node: the files go through one script's input into a temporary folder, are checked there
 * (length, SHA-256, whether the native library can be loaded), and the folder gets its name in one step, so that a
 * half-installed agent never has it. An intact agent that another installation put there meanwhile stays, since it may
 * be starting. Interrupted at any point, the script removes what it began, because its input ends.
 * AGENT_UPLOAD_FAILED with what the node said.
 */
export async function installAgent(
  transport: Transport,
  options: {
    readonly bundle: AgentBundle;
    readonly files: readonly AgentFile[];
    readonly runtime: NodeRuntime;
    readonly cacheFolder: string;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { bundle, files, runtime, cacheFolder, signal } = options;
  const contents = await Promise.all(files.map(async ({ name }) => readFile(join(bundle.folder, name))));
  const target = agentFolderOnNode(cacheFolder, bundle.contentHash);
  const script = buildInstallScript(runtime.path, target, files);
  const result = await runScript(transport, script, { signal, timeoutMs: INSTALL_TIMEOUT_MS, input: contents, what: 'Installing the agent' });
  if (result.code !== 0) {
    throw new MeshpathError({
      code: 'AGENT_UPLOAD_FAILED',
      message: 'The agent could not be installed on the node.',
      reason: printable(result.errors).slice(-600) || `The installation ended with code ${result.code}.`,
      remedy: `Check that ${cacheFolder} on the node is writable, has space, and is not mounted noexec; or set XDG_CACHE_HOME for this user to a folder that is.`,
    });
  }
}

function buildInstallScript(nodePath: string, target: string, files: readonly AgentFile[]): string {
  const plan = JSON.stringify({ target, keep: KEPT_VERSIONS, files: files.map(({ name, sha256, bytes }) => ({ name, sha256, bytes })) });
  const base = target.slice(0, target.lastIndexOf('/'));
  return `
umask 077
mkdir -p ${quoteForShell(base)} || exit 1
temporary=$(mktemp -d ${quoteForShell(`${base}/.install-XXXXXX`)}) || exit 1
trap 'rm -rf "$temporary"' EXIT
trap 'exit 1' HUP INT TERM PIPE
${quoteForShell(nodePath)} -e ${quoteForShell(RECEIVE)} "$temporary" ${quoteForShell(plan)} || exit 1
`;
}

/**
 * What the node's Node.js runs to receive the files. It is a text because it runs there before anything of ours is
 * there, on Node.js 20 without any module.
 */
const RECEIVE = `
const fs = require('fs');
const path = require('path');
const crypto = require('crypto');
const temporary = process.argv[1];
const plan = JSON.parse(process.argv[2]);
const hash = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');
const fail = (text) => { process.stderr.write(text + '\\n'); process.exit(1); };
try {
  const content = fs.readFileSync(0);
  const wanted = plan.files.reduce((sum, file) => sum + file.bytes, 0);
  if (content.length !== wanted) fail('Only ' + content.length + ' of ' + wanted + ' bytes arrived.');
  let offset = 0;
  for (const file of plan.files) {
    const bytes = content.subarray(offset, offset += file.bytes);
    if (hash(bytes) !== file.sha256) fail(file.name + ' arrived damaged.');
    const target = path.join(temporary, file.name);
    const handle = fs.openSync(target, 'wx', 0o600);
    fs.writeSync(handle, bytes);
    fs.fsyncSync(handle);
    fs.closeSync(handle);
    if (file.name.endsWith('.node')) process.dlopen({ exports: {} }, target);
  }
  fs.chmodSync(temporary, 0o700);
  const takeName = () => {
    try { fs.renameSync(temporary, plan.target); return true; } catch (error) { if (!['ENOTEMPTY', 'EEXIST', 'ENOTDIR'].includes(error.code)) throw error; return false; }
  };
  const isIntact = (file) => {
    try { return hash(fs.readFileSync(path.join(plan.target, file.name))) === file.sha256; } catch { return false; }
  };
  if (!takeName() && !plan.files.every(isIntact)) {
    const replaced = path.join(temporary, 'replaced');
    try { fs.renameSync(plan.target, replaced); } catch (error) { if (error.code !== 'ENOENT') throw error; }
    fs.rmSync(replaced, { recursive: true, force: true });
    takeName();
  }
  const base = path.dirname(plan.target);
  const ageOf = (name) => { try { return Date.now() - fs.statSync(path.join(base, name)).mtimeMs; } catch { return -1; } };
  const names = fs.readdirSync(base);
  const old = names.filter((name) => /^[0-9a-f]{64}$/.test(name) && path.join(base, name) !== plan.target).sort((a, b) => ageOf(a) - ageOf(b));
  const abandoned = names.filter((name) => /^\\.install-/.test(name) && ageOf(name) > 3600000);
  for (const name of [...old.slice(plan.keep - 1), ...abandoned]) fs.rmSync(path.join(base, name), { recursive: true, force: true });
} catch (error) { fail(error.message); }
`;
