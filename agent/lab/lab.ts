import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { capabilityError, effectiveCapabilities, missingCapabilities } from '../kernel/capabilities.ts';
import { findCgroup2Mount } from '../kernel/cgroup2Mount.ts';
import { cancelledError, inputError, MeshpathError } from '../protocol/errors.ts';
import { toIpAddress } from '../protocol/ipAddress.ts';
import { LAB_POD_LIMITS } from '../protocol/lab.ts';
import type { CgroupPath, NamespaceId } from '../protocol/scalars.ts';
import { requireCommand } from '../snapshot/command.ts';
import { createCgroup } from './cgroupFolders.ts';
import { runCommand } from './command.ts';
import { labFolder, labId, labIdOfNamespace, NAMESPACES_FOLDER, namespaceNameOf, podName } from './labNames.ts';
import { claimLabName, labExistsError } from './labRecord.ts';
import { LabPod } from './pod.ts';
import { identifyProcess } from './processIdentity.ts';
import { removeLab } from './removeLab.ts';

const FIRST_HOST = 11;

export interface LabOptions {
  /** Of the lab: it is in the name of everything that it makes. */
  readonly name: string;
  /** How many pods. */
  readonly pods: number;
  /** Given to iptables-restore --noflush in every pod; null: no rules. */
  readonly rules: string | null;
  /** The file of the programs that run in pods. */
  readonly programPath: string;
  /** The first three bytes of the addresses, which exist in the lab's namespaces only: `10.77.0`. */
  readonly subnet?: string;
  readonly signal?: AbortSignal;
  /** Told of each step that was done. */
  readonly report?: (text: string) => void;
}

/** Pods on one bridge, and nothing outside of their own namespaces. */
export interface Lab {
  readonly name: string;
  /** In the name of everything that it made: `meshpath-lab-<name>`. */
  readonly id: string;
  /** Where it is written down, and what its programs need and say. */
  readonly folder: string;
  /** The namespace of the bridge, with the address `<subnet>.1`. */
  readonly routerNamespaceName: string;
  readonly routerNamespaceId: NamespaceId;
  readonly pods: readonly LabPod[];
  /** Gives a pod by its place; throws a RangeError where there is none. */
  pod(index: number): LabPod;
  /** Ends every process in the lab and removes all that it made. Safe to call more than once. */
  dispose(): Promise<void>;
}

/**
 * Makes pods without Kubernetes: a network namespace each with a veth pair into a bridge in a namespace of its own, an
 * address, a default route, and a cgroup2 folder. It is this process's until it is written down otherwise. Needs root. Where a step
 * fails, all before it is undone. Throws CAPABILITY_MISSING, CGROUP2_MISSING, NOT_SUPPORTED, LAB_EXISTS, LAB_FAILED, CANCELLED.
 */
export async function createLab(options: LabOptions): Promise<Lab> {
  const { name, pods: count, rules, programPath, subnet = '10.77.0', signal, report = () => undefined } = options;
  if (!Number.isInteger(count) || count < 1 || count > LAB_POD_LIMITS.most) {
    throw inputError('A lab cannot have so many pods.', `${count} is not a whole number from 1 to ${LAB_POD_LIMITS.most}.`, 'Give another number of pods.');
  }
  const id = labId(name);
  checkNode(rules !== null);
  const mount = findCgroup2Mount();
  const owner = identifyProcess(process.pid);
  if (owner === undefined) {
    throw new Error('this process is not in /proc');
  }
  await checkNameIsFree(name, id, mount);
  await claimLabName(name, owner);
  try {
    const routerNamespaceName = namespaceNameOf(id, 'router');
    await addNamespace(routerNamespaceName, signal);
    await ipBatch(routerNamespaceName, ['link set lo up', 'link add bridge0 type bridge', `address add ${subnet}.1/24 dev bridge0`, 'link set bridge0 up'], signal);
    report('The network between the pods is there.');
    await createCgroup(join(mount, id));
    const pods: LabPod[] = [];
    for (let index = 0; index < count; index++) {
      const pod = await addPod({ id, index, subnet, mount, routerNamespaceName, programPath, signal });
      if (rules !== null) {
        await pod.run('iptables-restore', ['--noflush'], rules, signal);
      }
      pods.push(pod);
      report(`${pod.name} is there: ${pod.address}${rules === null ? '' : ', with the rules of the mesh'}.`);
    }
    return {
      name,
      id,
      folder: labFolder(id),
      routerNamespaceName,
      routerNamespaceId: await readNamespaceId(routerNamespaceName),
      pods,
      pod: (index) => {
        const pod = pods[index];
        if (pod === undefined) {
          throw new RangeError(`the lab has no pod ${index}`);
        }
        return pod;
      },
      dispose: () => removeLab(name),
    };
  } catch (error) {
    await removeLab(name);
    throw signal?.aborted === true ? cancelledError('Making the lab') : error;
  }
}

/** Asks for all that is needed before anything is made. */
function checkNode(withRules: boolean): void {
  if (process.platform !== 'linux') {
    throw new MeshpathError({ code: 'NOT_SUPPORTED', message: 'A lab needs Linux.', reason: `This is ${process.platform}.`, remedy: 'Connect to a node with Linux, or use the simulated node.' });
  }
  const missing = missingCapabilities(effectiveCapabilities(), ['CAP_NET_ADMIN', 'CAP_SYS_ADMIN']);
  if (missing.length > 0 || process.getuid?.() !== 0) {
    throw capabilityError('make a lab', missing.length > 0 ? missing : ['CAP_SYS_ADMIN']);
  }
  ['ip', 'nsenter', 'setpriv', ...(withRules ? ['iptables-restore'] : [])].forEach(requireCommand);
}

/** What is there under the lab's name is not touched: it may be in use. */
async function checkNameIsFree(name: string, id: string, mount: string): Promise<void> {
  const namespaces = await readdir(NAMESPACES_FOLDER).catch(() => []);
  const namespace = namespaces.find((candidate) => labIdOfNamespace(candidate) === id);
  const hasCgroup = (await readdir(mount)).includes(id);
  if (namespace !== undefined || hasCgroup) {
    throw labExistsError(name, namespace === undefined ? `There is a cgroup ${join(mount, id)}.` : `There is a network namespace ${namespace}.`);
  }
}

interface PodPlan {
  readonly id: string;
  readonly index: number;
  readonly subnet: string;
  readonly mount: string;
  readonly routerNamespaceName: string;
  readonly programPath: string;
  readonly signal: AbortSignal | undefined;
}

async function addPod({ id, index, subnet, mount, routerNamespaceName, programPath, signal }: PodPlan): Promise<LabPod> {
  const name = podName(index);
  const namespaceName = namespaceNameOf(id, name);
  const address = `${subnet}.${FIRST_HOST + index}`;
  const device = `veth${index}`;
  await addNamespace(namespaceName, signal);
  await ipBatch(routerNamespaceName, [`link add ${device} type veth peer name eth0 netns ${namespaceName}`, `link set ${device} master bridge0 up`], signal);
  await ipBatch(namespaceName, ['link set lo up', `address add ${address}/24 dev eth0`, 'link set eth0 up', `route add default via ${subnet}.1`], signal);
  const cgroup = `/${id}/${name}` as CgroupPath;
  const pod = new LabPod({ name, namespaceName, namespaceId: await readNamespaceId(namespaceName), cgroup, cgroupFolder: join(mount, cgroup), addresses: [toIpAddress(address)], programPath });
  await createCgroup(pod.cgroupFolder);
  return pod;
}

async function addNamespace(name: string, signal: AbortSignal | undefined): Promise<void> {
  await runCommand('ip', ['netns', 'add', name], '', signal);
}

async function ipBatch(namespaceName: string, lines: readonly string[], signal: AbortSignal | undefined): Promise<void> {
  await runCommand('ip', ['-netns', namespaceName, '-batch', '-'], `${lines.join('\n')}\n`, signal);
}

async function readNamespaceId(name: string): Promise<NamespaceId> {
  return String((await stat(join(NAMESPACES_FOLDER, name), { bigint: true })).ino) as NamespaceId;
}
