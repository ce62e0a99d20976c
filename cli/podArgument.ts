import { inputError } from '../agent/protocol/errors.ts';
import type { MeshpathError } from '../agent/protocol/errors.ts';
import { parseIpAddress } from '../agent/protocol/ipAddress.ts';
import type { IpAddress } from '../agent/protocol/scalars.ts';
import { escapeText } from './text/escape.ts';

/** What --pod says: a cgroup as the person named it, and the addresses of the pod. */
export interface PodArgument {
  readonly cgroup: string;
  readonly addresses: readonly IpAddress[];
}

/** Reads `CGROUP_PATH=IP[,IP]`; the path may itself hold `=`. Throws a MeshpathError INPUT_INVALID. */
export function parsePodArgument(text: string): PodArgument {
  const separator = text.lastIndexOf('=');
  if (separator <= 0) {
    throw podError(text, 'There is no CGROUP_PATH= before the addresses.');
  }
  const addresses = text
    .slice(separator + 1)
    .split(',')
    .map((word) => {
      const address = parseIpAddress(word);
      if (address === undefined) {
        throw podError(text, `'${escapeText(word.slice(0, 60))}' is not an IP address.`);
      }
      return address;
    });
  return { cgroup: text.slice(0, separator), addresses: [...new Set(addresses)] };
}

function podError(text: string, reason: string): MeshpathError {
  return inputError(
    `--pod ${escapeText(text.slice(0, 100))} cannot be read.`,
    reason,
    'Give CGROUP_PATH=IP[,IP], as in --pod /kubepods/pod1=10.0.0.7: the cgroup of the pod and every address that it has.',
  );
}
