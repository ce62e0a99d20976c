import { MeshpathError } from '../../agent/protocol/errors.ts';
import { formatDestination, parseDestination } from './destination.ts';
import type { Destination } from './destination.ts';
import type { HostConfig } from './sshConfig.ts';

/** More hops than this is a loop that the check for repeated hosts did not see. */
const MAX_HOPS = 8;

/**
 * Gives the hosts to connect through, first hop first and the destination last, each with its own configuration. As
 * in OpenSSH, only the first hop's own ProxyJump counts; the later ones are reached through the hop before them.
 * SSH_CONFIG_INVALID where hops run in a circle.
 */
export async function resolveRoute(
  destination: Destination,
  resolve: (destination: Destination) => Promise<HostConfig>,
): Promise<HostConfig[]> {
  return followJumps(destination, resolve, []);
}

async function followJumps(
  destination: Destination,
  resolve: (destination: Destination) => Promise<HostConfig>,
  seen: readonly string[],
): Promise<HostConfig[]> {
  const name = formatDestination(destination);
  if (seen.includes(name) || seen.length >= MAX_HOPS) {
    throw new MeshpathError({
      code: 'SSH_CONFIG_INVALID',
      message: `The jump hosts of '${seen[0] ?? name}' never end.`,
      reason: `${[...seen, name].join(' is reached through ')}.`,
      remedy: 'Set `ProxyJump none` for the jump host in your ssh configuration.',
    });
  }
  const config = await resolve(destination);
  const [first, ...others] = config.proxyJump.map(parseDestination);
  if (first === undefined) {
    return [config];
  }
  const before = await followJumps(first, resolve, [...seen, name]);
  const between: HostConfig[] = [];
  for (const hop of others) {
    between.push(await resolve(hop));
  }
  return [...before, ...between, config];
}
