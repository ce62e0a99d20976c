import { execFile } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { homedir, hostname, userInfo } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import SSHConfig from 'ssh-config';
import { MeshpathError, cancelledError } from '../../agent/protocol/errors.ts';
import type { Destination } from './destination.ts';
import type { StrictHostKeyChecking } from './hostKeyPolicy.ts';
import { matchesPattern } from './knownHosts.ts';

/** What the ssh configuration says of one host, with every path absolute and every token expanded. */
export interface HostConfig {
  /** The host as the person wrote it. */
  readonly alias: string;
  readonly hostName: string;
  readonly port: number;
  readonly user: string;
  readonly identityFiles: readonly string[];
  readonly identitiesOnly: boolean;
  /** The agent's socket; null for no agent. */
  readonly identityAgent: string | null;
  readonly userKnownHostsFiles: readonly string[];
  readonly globalKnownHostsFiles: readonly string[];
  readonly strictHostKeyChecking: StrictHostKeyChecking;
  /** The hops as written, first hop first; empty for none. */
  readonly proxyJump: readonly string[];
  /** A shell command with its tokens expanded, as the user's own configuration has it; null for none. */
  readonly proxyCommand: string | null;
  readonly connectTimeoutSeconds: number | null;
  readonly hostKeyAlias: string | null;
  readonly publicKeyAuthentication: boolean;
  readonly keyboardInteractiveAuthentication: boolean;
  readonly passwordAuthentication: boolean;
  readonly passwordPrompts: number;
}

/** Where the configuration is read from. */
export interface SshConfigSource {
  /** Instead of ~/.ssh/config and the system's file; as `ssh -F`. */
  readonly configFile?: string | undefined;
  /** The ssh program to ask; `ssh` from the PATH where it is not given. */
  readonly sshProgram?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How long `ssh -G` may take, milliseconds: a `Match exec` of the user may run in it. */
const SSH_G_TIMEOUT_MS = 10_000;
const MAX_SSH_G_BYTES = 1024 * 1024;
const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
/** OpenSSH follows Include 16 deep (readconf.c, READCONF_MAX_DEPTH). */
const MAX_INCLUDE_DEPTH = 16;
const MAX_INCLUDED_FILES = 256;
const MAX_ALIASES = 10_000;

const DEFAULT_IDENTITY_FILES = ['id_rsa', 'id_ecdsa', 'id_ed25519'].map((name) => `~/.ssh/${name}`);

/**
 * Lists the aliases that the user's ssh configuration names, in its order, each once: what follows `Host`, with
 * Include followed, without patterns and negations. Gives none where there is no configuration.
 */
export async function listConfiguredHosts(source: SshConfigSource = {}): Promise<string[]> {
  const text = await readWithIncludes(source.configFile ?? join(homedir(), '.ssh', 'config'));
  const aliases = new Set<string>();
  for (const line of text.split('\n')) {
    const values = /^\s*host(?:\s*=\s*|\s+)(.*)$/i.exec(line)?.[1];
    for (const value of values === undefined ? [] : splitValues(values)) {
      if (!/[*?!]/.test(value) && !value.startsWith('-') && aliases.size < MAX_ALIASES) {
        aliases.add(value);
      }
    }
  }
  return [...aliases];
}

/**
 * Gives the effective configuration of a host: what `ssh -G` prints, or, where there is no ssh program, what the
 * configuration files say without `Match exec` and name canonicalisation. SSH_CONFIG_INVALID where ssh refuses the
 * configuration.
 */
export async function resolveHost(destination: Destination, source: SshConfigSource = {}): Promise<HostConfig> {
  const fields = (await askSsh(destination, source)) ?? (await computeFromFiles(destination, source));
  return toHostConfig(destination, fields);
}

/** Lower-case keyword → its values in their order. */
type ConfigFields = ReadonlyMap<string, readonly string[]>;

async function askSsh(destination: Destination, source: SshConfigSource): Promise<ConfigFields | undefined> {
  const options = [
    '-G',
    ...(source.configFile === undefined ? [] : ['-F', source.configFile]),
    ...(destination.user === null ? [] : ['-l', destination.user]),
    ...(destination.port === null ? [] : ['-p', String(destination.port)]),
  ];
  // parseDestination refuses a host that begins with `-`; `--` says the same to ssh once more.
  const result = await runProgram(source.sshProgram ?? 'ssh', [...options, '--', destination.host], source.signal);
  if (result === undefined) {
    return undefined;
  }
  if (result.code !== 0) {
    throw new MeshpathError({
      code: 'SSH_CONFIG_INVALID',
      message: `The ssh configuration for '${destination.host}' cannot be used.`,
      reason: result.stderr.trim().slice(0, 1000) || `ssh -G ended with code ${result.code}.`,
      remedy: `Correct the ssh configuration: \`ssh -G ${destination.host}\` shows the same error.`,
    });
  }
  return parseSshG(result.stdout);
}

/** Reads what `ssh -G` prints: a keyword and its value on each line, repeatable ones on several. */
export function parseSshG(text: string): ConfigFields {
  const fields = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) {
      const keyword = line.slice(0, space).toLowerCase();
      const values = fields.get(keyword);
      if (values === undefined) {
        fields.set(keyword, [line.slice(space + 1).trim()]);
      } else {
        values.push(line.slice(space + 1).trim());
      }
    }
  }
  return fields;
}

interface ProgramResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program; undefined where it is not there. */
async function runProgram(program: string, args: readonly string[], signal: AbortSignal | undefined): Promise<ProgramResult | undefined> {
  return new Promise((resolve, reject) => {
    execFile(
      program,
      [...args],
      { timeout: SSH_G_TIMEOUT_MS, maxBuffer: MAX_SSH_G_BYTES, encoding: 'utf8', ...(signal === undefined ? {} : { signal }) },
      (error, stdout, stderr) => {
        if (error === null) {
          resolve({ code: 0, stdout, stderr });
        } else if (signal?.aborted === true) {
          reject(cancelledError('Reading the ssh configuration'));
        } else if (error.code === 'ENOENT' || error.code === 'EACCES') {
          resolve(undefined);
        } else if (error.killed === true) {
          resolve({ code: -1, stdout: '', stderr: `ssh -G did not end within ${SSH_G_TIMEOUT_MS / 1000} seconds.` });
        } else {
          resolve({ code: typeof error.code === 'number' ? error.code : -1, stdout, stderr });
        }
      },
    );
  });
}

async function computeFromFiles(destination: Destination, source: SshConfigSource): Promise<ConfigFields> {
  const files = source.configFile === undefined ? [join(homedir(), '.ssh', 'config'), '/etc/ssh/ssh_config'] : [source.configFile];
  const texts: string[] = [];
  for (const file of files) {
    // `Host *` ends the last section of the file before. Canonicalisation is taken out: it would run a name lookup
    // program inside the parser.
    texts.push((await readWithIncludes(file)).replace(/^\s*canonical(?:izehostname|domains)\b.*$/gim, ''), 'Host *');
  }
  let computed: Record<string, string | string[]>;
  try {
    computed = SSHConfig.parse(texts.join('\n')).compute(
      { Host: destination.host, ...(destination.user === null ? {} : { User: destination.user }) },
      { ignoreCase: true, matchExec: false },
    );
  } catch (error) {
    throw new MeshpathError(
      {
        code: 'SSH_CONFIG_INVALID',
        message: `The ssh configuration for '${destination.host}' cannot be used.`,
        reason: error instanceof Error ? error.message : String(error),
        remedy: `Correct ${files.join(' or ')}.`,
      },
      { cause: error },
    );
  }
  const fields = new Map<string, string[]>();
  for (const [keyword, value] of Object.entries(computed)) {
    fields.set(keyword.toLowerCase(), Array.isArray(value) ? value : [value]);
  }
  if (destination.port !== null) {
    fields.set('port', [String(destination.port)]);
  }
  return fields;
}

function toHostConfig(destination: Destination, fields: ConfigFields): HostConfig {
  const first = (keyword: string): string | undefined => fields.get(keyword)?.[0];
  const present = (keyword: string): string | undefined => {
    const value = first(keyword);
    return value === undefined || value.toLowerCase() === 'none' ? undefined : value;
  };
  const isOn = (keyword: string, fallback: boolean): boolean => {
    const value = first(keyword)?.toLowerCase();
    return value === undefined ? fallback : value === 'yes' || value === 'true';
  };
  const port = Number(first('port') ?? 22);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw configError(destination, `Port '${first('port') ?? ''}' is not a port from 1 to 65535.`);
  }
  const user = first('user') ?? userInfo().username;
  const hostName = (first('hostname') ?? destination.host).replaceAll('%h', destination.host).replaceAll('%%', '%');
  const tokens: Tokens = { hostName, port, user, alias: destination.host, hostKeyAlias: present('hostkeyalias') ?? hostName };
  const paths = (keyword: string, fallback: readonly string[]): string[] =>
    (fields.get(keyword) ?? fallback)
      .flatMap((value) => (keyword === 'identityfile' ? [unquote(value)] : splitValues(value)))
      .filter((value) => value.toLowerCase() !== 'none')
      .map((value) => expandPath(value, tokens));
  const timeout = Number(present('connecttimeout') ?? Number.NaN);
  const prompts = Number(first('numberofpasswordprompts') ?? 3);
  const command = present('proxycommand');
  const isInteractive = !isOn('batchmode', false);
  return {
    alias: destination.host,
    hostName,
    port,
    user,
    identityFiles: [...new Set(paths('identityfile', DEFAULT_IDENTITY_FILES))],
    identitiesOnly: isOn('identitiesonly', false),
    identityAgent: resolveAgent(first('identityagent'), tokens),
    userKnownHostsFiles: paths('userknownhostsfile', ['~/.ssh/known_hosts', '~/.ssh/known_hosts2']),
    globalKnownHostsFiles: paths('globalknownhostsfile', ['/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2']),
    strictHostKeyChecking: toStrictness(first('stricthostkeychecking')),
    proxyJump: (present('proxyjump') ?? '').split(',').map((hop) => hop.trim()).filter((hop) => hop !== ''),
    proxyCommand: command === undefined ? null : expandTokens(command, tokens),
    connectTimeoutSeconds: Number.isFinite(timeout) && timeout > 0 ? timeout : null,
    hostKeyAlias: present('hostkeyalias') ?? null,
    publicKeyAuthentication: isOn('pubkeyauthentication', true),
    keyboardInteractiveAuthentication: isInteractive && isOn('kbdinteractiveauthentication', true),
    passwordAuthentication: isInteractive && isOn('passwordauthentication', true),
    passwordPrompts: Number.isInteger(prompts) && prompts >= 0 && prompts <= 10 ? prompts : 3,
  };
}

/** `ssh -G` prints `true` and `false` for what is written `yes` and `no`; `off` is an old word for `no`. */
function toStrictness(value: string | undefined): StrictHostKeyChecking {
  switch (value?.toLowerCase()) {
    case 'yes':
    case 'true':
      return 'yes';
    case 'no':
    case 'off':
    case 'false':
      return 'no';
    case 'accept-new':
      return 'accept-new';
    default:
      return 'ask';
  }
}

function resolveAgent(value: string | undefined, tokens: Tokens): string | null {
  const socket = process.env['SSH_AUTH_SOCK'];
  if (value === undefined || value === 'SSH_AUTH_SOCK') {
    return socket === undefined || socket === '' ? (process.platform === 'win32' ? '\\\\.\\pipe\\openssh-ssh-agent' : null) : socket;
  }
  return value.toLowerCase() === 'none' ? null : expandPath(unquote(value), tokens);
}

interface Tokens {
  readonly hostName: string;
  readonly port: number;
  readonly user: string;
  readonly alias: string;
  readonly hostKeyAlias: string;
}

/** Expands the tokens of ssh_config(5), TOKENS; one that it does not know stays as it is. */
function expandTokens(text: string, tokens: Tokens): string {
  return text.replaceAll(/%([%dhikLlnpru])/g, (whole, token: string) => {
    switch (token) {
      case '%':
        return '%';
      case 'd':
        return homedir();
      case 'h':
        return tokens.hostName;
      case 'i':
        return String(process.getuid?.() ?? '');
      case 'k':
        return tokens.hostKeyAlias;
      case 'L':
        return hostname().split('.')[0] ?? '';
      case 'l':
        return hostname();
      case 'n':
        return tokens.alias;
      case 'p':
        return String(tokens.port);
      case 'r':
        return tokens.user;
      case 'u':
        return userInfo().username;
      default:
        return whole;
    }
  });
}

function expandPath(value: string, tokens: Tokens): string {
  const withHome = value === '~' || value.startsWith('~/') ? join(homedir(), value.slice(1)) : value;
  const withVariables = withHome
    .replaceAll(/\$\{(\w+)\}/g, (_, name: string) => process.env[name] ?? '')
    .replace(/^\$(\w+)$/, (_, name: string) => process.env[name] ?? '');
  return expandTokens(withVariables, tokens);
}

function configError(destination: Destination, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'SSH_CONFIG_INVALID',
    message: `The ssh configuration for '${destination.host}' cannot be used.`,
    reason,
    remedy: 'Correct the ssh configuration of this host.',
  });
}

/** Gives the text of a configuration file with the files that it includes in their places. */
async function readWithIncludes(file: string): Promise<string> {
  const budget = { files: MAX_INCLUDED_FILES };
  return readConfigFile(file, 0, budget);
}

async function readConfigFile(file: string, depth: number, budget: { files: number }): Promise<string> {
  const text = await readTextFile(file);
  if (text === undefined) {
    return '';
  }
  const out: string[] = [];
  let section = 'Host *';
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*(?:host|match)[\s=]/i.test(line)) {
      section = line;
    }
    const values = /^\s*include(?:\s*=\s*|\s+)(.*)$/i.exec(line)?.[1];
    if (values === undefined) {
      out.push(line);
      continue;
    }
    const included: string[] = [];
    for (const pattern of depth < MAX_INCLUDE_DEPTH ? splitValues(values) : []) {
      for (const path of await expandWildcards(resolveInclude(pattern, file))) {
        if (budget.files > 0) {
          budget.files -= 1;
          included.push(await readConfigFile(path, depth + 1, budget));
        }
      }
    }
    // A section of the included file ends with that file: the section around goes on (readconf.c, oInclude).
    out.push(...included, section);
  }
  return out.join('\n');
}

/** Relative names are looked for in ~/.ssh, or in /etc/ssh from the system's file (ssh_config(5), Include). */
function resolveInclude(pattern: string, includingFile: string): string {
  if (pattern === '~' || pattern.startsWith('~/')) {
    return join(homedir(), pattern.slice(1));
  }
  if (isAbsolute(pattern)) {
    return pattern;
  }
  return join(dirname(includingFile) === '/etc/ssh' ? '/etc/ssh' : join(homedir(), '.ssh'), pattern);
}

async function expandWildcards(pattern: string): Promise<string[]> {
  if (!/[*?]/.test(pattern)) {
    return [pattern];
  }
  const parent = dirname(pattern);
  const name = pattern.slice(parent.length).replace(/^[/\\]/, '');
  const paths: string[] = [];
  for (const folder of await expandWildcards(parent)) {
    const names = await listFolder(folder);
    paths.push(...names.filter((entry) => matchesPattern(name, entry) && (!entry.startsWith('.') || name.startsWith('.'))).map((entry) => join(folder, entry)));
  }
  return paths;
}

async function listFolder(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch {
    // OpenSSH takes a pattern that matches nothing as nothing to include.
    return [];
  }
}

async function readTextFile(file: string): Promise<string | undefined> {
  try {
    const text = await readFile(file, 'utf8');
    return text.length <= MAX_CONFIG_BYTES ? text : undefined;
  } catch {
    // A configuration file that is not there or not readable is not an error to OpenSSH either.
    return undefined;
  }
}

function splitValues(text: string): string[] {
  const values: string[] = [];
  for (const match of text.matchAll(/"([^"]*)"|([^\s"]+)/g)) {
    const value = match[1] ?? match[2] ?? '';
    if (match[1] === undefined && value.startsWith('#')) {
      break;
    }
    values.push(value);
  }
  return values;
}

function unquote(text: string): string {
  return /^"(.*)"$/.exec(text)?.[1] ?? text;
}
