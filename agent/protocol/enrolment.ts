import { inputError, MeshpathError } from './errors.ts';
import { ipAddressBytes, isIpv4, parseIpAddress } from './ipAddress.ts';
import type { PodEnrolment } from './acceleration.ts';
import type { CgroupPath, IpAddress } from './scalars.ts';

const MAX_PODS = 1_024;
const MAX_ADDRESSES = 16;
const MAX_PATH_CHARACTERS = 4_096;

/**
 * Gives the pods of a request in their canonical form, after comparing them with each other and with those that are
 * `enrolled` already: a socket must be decided by the programs of one pod only, and an address must name one pod.
 * Throws INPUT_INVALID, LIMIT_EXCEEDED, ACCELERATION_ALREADY_ON, ACCELERATION_OVERLAPS.
 */
export function checkEnrolments(pods: readonly PodEnrolment[], enrolled: readonly PodEnrolment[]): readonly PodEnrolment[] {
  if (pods.length === 0) {
    throw inputError('No pod was named.', 'Acceleration is turned on for pods, and the list is empty.', 'Name at least one cgroup with its addresses.');
  }
  if (pods.length > MAX_PODS) {
    throw limitError('pods', pods.length, MAX_PODS);
  }
  const checked: PodEnrolment[] = [];
  for (const pod of pods) {
    const canonical = { cgroup: checkCgroup(pod.cgroup), addresses: checkAddresses(pod) };
    for (const other of [...enrolled, ...checked]) {
      refuseOverlap(canonical, other);
    }
    checked.push(canonical);
  }
  return checked;
}

/** Gives a cgroup path without a slash at its end. Throws INPUT_INVALID where it is not absolute, or is the root. */
export function checkCgroup(path: string): CgroupPath {
  const parts = path.split('/').filter((part) => part !== '');
  if (!path.startsWith('/') || path.includes('\0') || path.length > MAX_PATH_CHARACTERS || parts.some((part) => part === '.' || part === '..')) {
    throw inputError(
      `'${path.slice(0, 200)}' is not a cgroup.`,
      'A cgroup is an absolute path below the root of the cgroup2 hierarchy, without `.` and `..`.',
      'Take the path from the list of cgroups, or from /proc/PID/cgroup (the line that begins with `0::`).',
    );
  }
  if (parts.length === 0) {
    throw inputError(
      'The root cgroup cannot be accelerated.',
      'Every process of the node is in it, also those of no pod.',
      'Name the cgroup of a pod.',
    );
  }
  return `/${parts.join('/')}` as CgroupPath;
}

function checkAddresses({ cgroup, addresses }: PodEnrolment): readonly IpAddress[] {
  if (addresses.length > MAX_ADDRESSES) {
    throw limitError(`addresses of ${cgroup}`, addresses.length, MAX_ADDRESSES);
  }
  const checked = addresses.map((text) => checkAddress(text));
  if (checked.length === 0) {
    throw inputError(
      `No address of ${cgroup} was named.`,
      'Connections that are taken must come from an address of the pod.',
      'Name the addresses that `ip address` shows in the network namespace of the pod.',
    );
  }
  return [...new Set(checked)];
}

function checkAddress(text: string): IpAddress {
  const address = parseIpAddress(text);
  if (address === undefined || !canBeOfPod(address)) {
    throw inputError(
      `'${text.slice(0, 60)}' cannot be the address of a pod.`,
      address === undefined ? 'It is not an IPv4 or IPv6 address.' : 'It is a loopback, multicast or unspecified address.',
      'Name the addresses that `ip address` shows in the network namespace of the pod.',
    );
  }
  return address;
}

function canBeOfPod(address: IpAddress): boolean {
  const bytes = ipAddressBytes(address);
  const first = bytes[0] ?? 0;
  return isIpv4(address)
    ? first !== 0 && first !== 127 && first < 224
    : first !== 0xff && !(bytes.subarray(0, 15).every((byte) => byte === 0) && (bytes[15] ?? 0) <= 1);
}

function refuseOverlap(pod: PodEnrolment, other: PodEnrolment): void {
  if (pod.cgroup === other.cgroup) {
    throw new MeshpathError({
      code: 'ACCELERATION_ALREADY_ON',
      message: `Acceleration is on for ${pod.cgroup} already.`,
      reason: `It is on for this cgroup with ${other.addresses.join(', ')}.`,
      remedy: 'Turn it off first to change it.',
    });
  }
  if (pod.cgroup.startsWith(`${other.cgroup}/`) || other.cgroup.startsWith(`${pod.cgroup}/`)) {
    throw overlapError(pod, `${pod.cgroup} and ${other.cgroup} are one inside of the other: the programs of both would run for the same sockets.`);
  }
  const shared = pod.addresses.find((address) => other.addresses.includes(address));
  if (shared !== undefined) {
    throw overlapError(pod, `${shared} is an address of ${other.cgroup} too, and an address must name one pod.`);
  }
}

/** The error for a pod that cannot be accelerated beside another. */
export function overlapError({ cgroup }: PodEnrolment, reason: string): MeshpathError {
  return new MeshpathError({
    code: 'ACCELERATION_OVERLAPS',
    message: `Acceleration for ${cgroup} would overlap with another.`,
    reason,
    remedy: 'Name the cgroup of each whole pod once, with its own addresses, or turn the other one off.',
  });
}

function limitError(what: string, count: number, limit: number): MeshpathError {
  return new MeshpathError({
    code: 'LIMIT_EXCEEDED',
    message: `There are too many ${what}.`,
    reason: `There are ${count}, and ${limit} are the most.`,
    remedy: 'Name fewer.',
  });
}
