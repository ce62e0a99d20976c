import type { PodInfo } from '../../agent/protocol/acceleration.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { CgroupInfo } from '../../agent/protocol/kernelObjects.ts';
import type { CgroupPath, Endpoint, NamespaceId } from '../../agent/protocol/scalars.ts';
import { toPortNumber, toUint64Text } from '../../agent/protocol/scalars.ts';
import type { InterfaceAddress, NetworkLink, NetworkNamespace, Route, Snapshot, SocketInfo } from '../../agent/protocol/snapshot.ts';
import { SNAPSHOT_FORMAT, SNAPSHOT_VERSION } from '../../agent/protocol/snapshot.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED } from './istioSidecar.ts';
import { formatSavedRules } from './savedRules.ts';

/** The user and group that the demo's applications run as. */
export const DEMO_APPLICATION_ID = 1000;

const HOST = '4026531840' as NamespaceId;
const BRIDGE_ADDRESS = '10.244.1.1';
const NODE_ADDRESS = '192.168.64.10';
const PODS_FOLDER = '/kubepods.slice' as CgroupPath;

interface DemoPod {
  readonly name: string;
  readonly namespace: NamespaceId;
  readonly address: string;
  readonly hostIndex: number;
  readonly macAddress: string;
  readonly firstCgroupId: bigint;
  readonly firstPid: number;
  readonly application: { readonly command: string; readonly port: number | null };
}

const DEMO_PODS: readonly DemoPod[] = [
  {
    name: 'pod-a', namespace: '4026532301' as NamespaceId, address: '10.244.1.2', hostIndex: 11, macAddress: '02:00:0a:f4:01:02', firstCgroupId: 210n, firstPid: 2101,
    application: { command: 'shop', port: 9000 },
  },
  {
    name: 'pod-b', namespace: '4026532402' as NamespaceId, address: '10.244.1.3', hostIndex: 12, macAddress: '02:00:0a:f4:01:03', firstCgroupId: 220n, firstPid: 2201,
    application: { command: 'web', port: 8080 },
  },
];

/**
 * Gives the ready-made world: a node with two pods on one bridge, Istio's sidecar and rules in each, an application
 * `shop` in pod-a (user 1000) and a web server in pod-b on port 8080; 192.168.64.1 and beyond are outside of the node.
 * Always the same.
 */
export function createDemoSnapshot(): Snapshot {
  return {
    format: SNAPSHOT_FORMAT,
    formatVersion: SNAPSHOT_VERSION,
    takenAt: '2026-01-01T00:00:00.000Z',
    node: { hostname: 'demo-node', kernelRelease: '6.18.0-simulated', machine: 'x86_64', kind: 'simulated' },
    namespaces: [hostNamespace(), ...DEMO_PODS.map(podNamespace)],
    pods: DEMO_PODS.map(podInfo),
    cgroups: [cgroup('/', 1n, 1), cgroup(PODS_FOLDER, 100n, 0), ...DEMO_PODS.flatMap(podCgroups)],
    bpf: { programs: [], maps: [], links: [], contents: [] },
    accelerations: [],
    omissions: [],
  };
}

function hostNamespace(): NetworkNamespace {
  const ports = DEMO_PODS.map((pod): NetworkLink => ({
    ...device(pod.hostIndex, `veth-${pod.name}`, 'veth', []),
    master: 'cni0',
    peer: { namespace: pod.namespace, index: 2 },
  }));
  return {
    id: HOST,
    names: ['host'],
    links: [
      loopback(),
      device(2, 'eth0', 'physical', [address(NODE_ADDRESS, 24)]),
      device(3, 'cni0', 'bridge', [address(BRIDGE_ADDRESS, 24)]),
      ...ports,
    ],
    routes: [
      ...localRoutes('eth0', NODE_ADDRESS),
      ...localRoutes('cni0', BRIDGE_ADDRESS),
      route('0.0.0.0', 0, 'eth0', '192.168.64.1', null),
      route('192.168.64.0', 24, 'eth0', null, NODE_ADDRESS),
      route('10.244.1.0', 24, 'cni0', null, BRIDGE_ADDRESS),
      ...loopbackRoutes(),
    ],
    routingRules: [],
    sysctls: sysctls(['eth0', 'cni0'], '1'),
    ruleSets: [],
    conntrack: [],
    sockets: [listener(6443, 0, { pid: 901, command: 'kube-apiserver', cgroup: '/' as CgroupPath, gid: 0 }, 9001n)],
  };
}

function podNamespace(pod: DemoPod): NetworkNamespace {
  const sidecar = { pid: pod.firstPid + 1, command: 'envoy', cgroup: containerCgroup(pod, 'istio-proxy'), gid: ISTIO_PROFILE.proxyGid };
  const application = { pid: pod.firstPid, command: pod.application.command, cgroup: containerCgroup(pod, 'app'), gid: DEMO_APPLICATION_ID };
  const inode = BigInt(pod.firstPid) * 10n;
  const sidecarPorts = [ISTIO_PROFILE.outboundPort, ISTIO_PROFILE.inboundPort, 15_021, 15_090];
  return {
    id: pod.namespace,
    names: [pod.name],
    links: [
      loopback(),
      { ...device(2, 'eth0', 'veth', [address(pod.address, 24)]), macAddress: pod.macAddress, peer: { namespace: HOST, index: pod.hostIndex } },
    ],
    routes: [
      ...localRoutes('eth0', pod.address),
      route('0.0.0.0', 0, 'eth0', BRIDGE_ADDRESS, null),
      route('10.244.1.0', 24, 'eth0', null, pod.address),
      ...loopbackRoutes(),
    ],
    routingRules: [],
    sysctls: sysctls(['eth0'], '0'),
    ruleSets: [{ family: 'ipv4', backend: 'nft', text: formatSavedRules(generateIstioSidecarRules(ISTIO_INJECTED).ipv4) }],
    conntrack: [],
    sockets: [
      ...sidecarPorts.map((port, index) => listener(port, ISTIO_PROFILE.proxyUid, sidecar, inode + BigInt(index))),
      ...(pod.application.port === null ? [] : [listener(pod.application.port, DEMO_APPLICATION_ID, application, inode + 9n)]),
    ],
  };
}

function podInfo(pod: DemoPod): PodInfo {
  return { name: pod.name, namespace: pod.namespace, cgroups: [podCgroup(pod)], addresses: [toIpAddress(pod.address)], profile: ISTIO_PROFILE.name };
}

function podCgroups(pod: DemoPod): CgroupInfo[] {
  return [
    cgroup(podCgroup(pod), pod.firstCgroupId, 0),
    cgroup(containerCgroup(pod, 'app'), pod.firstCgroupId + 1n, 1),
    cgroup(containerCgroup(pod, 'istio-proxy'), pod.firstCgroupId + 2n, 1),
  ];
}

function podCgroup(pod: DemoPod): CgroupPath {
  return `${PODS_FOLDER}/${pod.name}` as CgroupPath;
}

function containerCgroup(pod: DemoPod, container: string): CgroupPath {
  return `${podCgroup(pod)}/${container}` as CgroupPath;
}

function cgroup(path: string, id: bigint, processCount: number): CgroupInfo {
  return { path: path as CgroupPath, id: toUint64Text(id), processCount, attachments: [] };
}

function listener(port: number, uid: number, owner: NonNullable<SocketInfo['owner']>, inode: bigint): SocketInfo {
  const anyone = (number: number): Endpoint => ({ address: toIpAddress('0.0.0.0'), port: toPortNumber(number) });
  return {
    protocol: 'tcp', state: 'listen', local: anyone(port), remote: anyone(0), dualStack: false, uid, inode: toUint64Text(inode), cookie: toUint64Text(inode % 100_000n), owner,
  };
}

function loopback(): NetworkLink {
  return { ...device(1, 'lo', 'loopback', [{ address: toIpAddress('127.0.0.1'), prefixLength: 8, scope: 'host' }]), mtu: 65_536 };
}

function device(index: number, name: string, kind: string, addresses: readonly InterfaceAddress[]): NetworkLink {
  return { index, name, kind, up: true, mtu: 1500, macAddress: null, master: null, peer: null, addresses };
}

function address(text: string, prefixLength: number): InterfaceAddress {
  return { address: toIpAddress(text), prefixLength, scope: 'global' };
}

function route(destination: string, prefixLength: number, deviceName: string, gateway: string | null, source: string | null): Route {
  return {
    family: 'ipv4', type: 'unicast', destination: { address: toIpAddress(destination), prefixLength }, gateway: gateway === null ? null : toIpAddress(gateway),
    device: deviceName, preferredSource: source === null ? null : toIpAddress(source), table: 254, metric: 0, scope: gateway === null ? 'link' : 'global',
  };
}

function localRoutes(deviceName: string, own: string): Route[] {
  const local = { ...route(own, 32, deviceName, null, own), table: 255, type: 'local', scope: 'host' };
  const broadcast = { ...route(own.replace(/\d+$/, '255'), 32, deviceName, null, own), table: 255, type: 'broadcast' };
  return [local, broadcast];
}

function loopbackRoutes(): Route[] {
  return [{ ...route('127.0.0.0', 8, 'lo', null, '127.0.0.1'), table: 255, type: 'local', scope: 'host' }];
}

function sysctls(devices: readonly string[], forward: '0' | '1'): Record<string, string> {
  const settings: [string, string][] = [['net.ipv4.ip_forward', forward]];
  for (const name of ['all', 'default', ...devices]) {
    settings.push([`net.ipv4.conf.${name}.rp_filter`, '0'], [`net.ipv4.conf.${name}.route_localnet`, '0'], [`net.ipv4.conf.${name}.forwarding`, forward]);
  }
  return Object.fromEntries(settings);
}
