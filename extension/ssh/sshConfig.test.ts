import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { MeshpathError } from '../../agent/protocol/errors.ts';
import { findCommand } from '../../test/requirements.ts';
import { parseDestination } from './destination.ts';
import { listConfiguredHosts, parseSshG, resolveHost } from './sshConfig.ts';
import type { HostConfig } from './sshConfig.ts';

const CONFIG = (folder: string): string => `
Include ${folder}/parts/*.conf
Host *.example "quoted" !no
  User star
Host web
  HostName %h.example.org
  Port 2022
  User alice
  IdentityFile ~/keys/%r@%h
  IdentityFile "${folder}/with space"
  IdentitiesOnly yes
  StrictHostKeyChecking yes
  ProxyJump first,second@hop:2200
  UserKnownHostsFile ~/.ssh/a ~/.ssh/b
  ConnectTimeout 7
  HostKeyAlias webby
  IdentityAgent none
Host lax
  StrictHostKeyChecking off
  ProxyCommand nc -X connect %h %p
  PasswordAuthentication no
Match originalhost matched
  Port 99
Host *
  User fallback
  identityfile ~/.ssh/last
`;

describe('ssh configuration', () => {
  let folder: string;
  let configFile: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'meshpath-ssh-config-'));
    await mkdir(join(folder, 'parts'));
    await writeFile(join(folder, 'parts', 'one.conf'), 'Host included other\n  User bob\n');
    await writeFile(join(folder, 'parts', 'two.conf'), `Host loop\n  Include ${folder}/config\n  Port 1234\n`);
    await writeFile(join(folder, 'parts', 'not included'), 'Host hidden\n');
    configFile = join(folder, 'config');
    await writeFile(configFile, CONFIG(folder));
  });
  after(async () => rm(folder, { recursive: true, force: true }));

  test('lists aliases with included ones, without patterns, each once', async () => {
    assert.deepEqual(await listConfiguredHosts({ configFile }), ['included', 'other', 'loop', 'quoted', 'web', 'lax']);
    assert.deepEqual(await listConfiguredHosts({ configFile: join(folder, 'nothing') }), []);
  });

  // Without an ssh program the files are read here: both ways must say the same.
  for (const [name, sshProgram] of [['ssh -G', 'ssh'], ['the files', '/nonexistent/ssh']] as const) {
    describe(`by ${name}`, { skip: sshProgram === 'ssh' && findCommand('ssh') === undefined ? 'needs ssh' : false }, () => {
      const resolve = async (text: string, file = join(folder, 'flat')): Promise<HostConfig> =>
        resolveHost(parseDestination(text), { configFile: file, sshProgram });
      before(async () => {
        await writeFile(join(folder, 'flat'), CONFIG(folder).replace(/^Include.*$/m, `Include ${folder}/parts/one.conf`));
      });

      test('everything of a host', async () => {
        assert.deepEqual(await resolve('web'), {
          alias: 'web',
          hostName: 'web.example.org',
          port: 2022,
          user: 'alice',
          identityFiles: [`${homedir()}/keys/alice@web.example.org`, `${folder}/with space`, `${homedir()}/.ssh/last`],
          identitiesOnly: true,
          identityAgent: null,
          userKnownHostsFiles: [`${homedir()}/.ssh/a`, `${homedir()}/.ssh/b`],
          globalKnownHostsFiles: ['/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2'],
          strictHostKeyChecking: 'yes',
          proxyJump: ['first', 'second@hop:2200'],
          proxyCommand: null,
          connectTimeoutSeconds: 7,
          hostKeyAlias: 'webby',
          publicKeyAuthentication: true,
          keyboardInteractiveAuthentication: true,
          passwordAuthentication: true,
          passwordPrompts: 3,
        } satisfies HostConfig);
      });

      test('words and tokens', async () => {
        const { strictHostKeyChecking, proxyCommand, passwordAuthentication, port } = await resolve('lax');
        assert.deepEqual(
          { strictHostKeyChecking, proxyCommand, passwordAuthentication, port },
          { strictHostKeyChecking: 'no', proxyCommand: 'nc -X connect lax 22', passwordAuthentication: false, port: 22 },
        );
      });

      test('what the person writes comes before the configuration; included files count', async () => {
        const { user, port, hostName } = await resolve('carol@web:2023');
        assert.deepEqual({ user, port, hostName }, { user: 'carol', port: 2023, hostName: 'web.example.org' });
        assert.equal((await resolve('included')).user, 'bob');
        assert.equal((await resolve('matched')).port, 99);
        assert.equal((await resolve('nobody-knows')).user, 'fallback');
        const empty = join(folder, 'empty');
        await writeFile(empty, '');
        const { user: own, strictHostKeyChecking, identityFiles } = await resolve('x', empty);
        assert.equal(own, userInfo().username);
        assert.equal(strictHostKeyChecking, 'ask');
        assert.ok(identityFiles.includes(join(homedir(), '.ssh/id_ed25519')));
      });
    });
  }

  test('a configuration that ssh refuses is SSH_CONFIG_INVALID', { skip: findCommand('ssh') === undefined ? 'needs ssh' : false }, async () => {
    const broken = join(folder, 'broken');
    await writeFile(broken, 'Host x\n  Nonsense yes\n');
    await assert.rejects(resolveHost(parseDestination('x'), { configFile: broken }), (error) => MeshpathError.is(error, 'SSH_CONFIG_INVALID') && error.reason.includes('nonsense'));
  });

  test('reads what ssh -G prints, repeated keywords in their order', () => {
    assert.deepEqual([...parseSshG('user a\nidentityfile one\nIdentityFile two three\nlonely\n')], [['user', ['a']], ['identityfile', ['one', 'two three']]]);
  });
});
