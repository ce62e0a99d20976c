import { MESH_PROFILES } from '../protocol/acceleration.ts';
import type { AccelerationInfo, MeshProfile, PodEnrolment } from '../protocol/acceleration.ts';
import { DATAPATH_PROGRAMS, OWNER, OWNER_KIND } from '../protocol/datapath.ts';
import type { LinkInfo, MapInfo } from '../protocol/kernelObjects.ts';
import type { DecodedValue, MapEntry } from '../protocol/mapEntries.ts';
import type { IpAddress } from '../protocol/scalars.ts';
import type { BpfState, Omission } from '../protocol/snapshot.ts';

/** What is known of acceleration that other agents have turned on. */
export interface OtherAccelerations {
  readonly accelerations: readonly AccelerationInfo[];
  readonly omissions: readonly Omission[];
}

/**
 * Finds acceleration that other agents of Meshpath on this machine have turned on, by what their programs are attached to and
 * by what their maps say: each set of programs has maps of its own. `own` is what this agent has turned on.
 */
export function findOtherAccelerations(bpf: BpfState, own: readonly AccelerationInfo[]): OtherAccelerations {
  const known = new Set(own.flatMap(({ programIds }) => programIds));
  const accelerations: AccelerationInfo[] = [];
  const omissions: Omission[] = [];
  for (const connect of bpf.programs) {
    if (connect.name !== DATAPATH_PROGRAMS.connect || connect.owner.kind !== 'meshpath' || known.has(connect.id)) {
      continue;
    }
    const maps = bpf.maps.filter(({ id }) => connect.mapIds.includes(id));
    const links = bpf.links.filter(({ programId }) => programId === connect.id);
    const pods = readPods(bpf, maps, links);
    if (pods.length === 0 || isSwitchedOff(bpf, maps)) {
      continue;
    }
    const profile = readProfile(bpf, maps);
    if (profile === undefined) {
      omissions.push({
        what: `acceleration that another agent has turned on for ${pods.map(({ cgroup }) => cgroup).join(', ')}`,
        reason: 'The profile that its programs were loaded with is none that this version of Meshpath knows, or could not be read.',
        remedy: 'Look at the node with the version of Meshpath that turned it on, or turn it off there.',
      });
      continue;
    }
    const programs = bpf.programs.filter(({ owner, mapIds }) => owner.kind === 'meshpath' && mapIds.some((id) => maps.some((map) => map.id === id)));
    const programIds = programs.map(({ id }) => id);
    accelerations.push({
      profile: profile.name,
      pods,
      since: connect.loadedAt,
      programIds,
      mapIds: [...new Set(programs.flatMap(({ mapIds }) => mapIds))],
      linkIds: bpf.links.filter(({ programId }) => programIds.includes(programId)).map(({ id }) => id),
    });
  }
  return { accelerations, omissions };
}

/** The cgroups that connect4 is attached to, with the addresses that are registered for each. */
function readPods(bpf: BpfState, maps: readonly MapInfo[], links: readonly LinkInfo[]): PodEnrolment[] {
  const addresses = new Map<string, IpAddress[]>();
  for (const { key, values } of entriesOf(bpf, maps, 'pod_addresses')) {
    const owner = numberOf(fieldOf(values[0]?.decoded, 'cgroup_id'));
    if (key.decoded?.kind === 'address' && owner !== undefined) {
      addresses.set(owner, [...(addresses.get(owner) ?? []), key.decoded.value]);
    }
  }
  return links.flatMap(({ target }) => {
    const owned = target.kind === 'cgroup' ? addresses.get(target.cgroupId) : undefined;
    return target.kind === 'cgroup' && target.path !== null && owned !== undefined ? [{ cgroup: target.path, addresses: owned }] : [];
  });
}

function isSwitchedOff(bpf: BpfState, maps: readonly MapInfo[]): boolean {
  return entriesOf(bpf, maps, 'control').some(({ values }) => numberOf(fieldOf(values[0]?.decoded, 'switched_off')) !== '0');
}

/** The profile by where its sidecar listens and by who that runs as; lists may be other than in the profile of that name. */
function readProfile(bpf: BpfState, maps: readonly MapInfo[]): MeshProfile | undefined {
  const section = entriesOf(bpf, maps, '.rodata')[0]?.values[0]?.decoded;
  const profile = fieldOf(section, 'profile');
  const number = (name: string): string | undefined => numberOf(fieldOf(profile, name));
  const sidecar = entriesOf(bpf, maps, 'owners').find(
    ({ key, values }) => numberOf(fieldOf(key.decoded, 'kind')) === String(OWNER_KIND.uid) && numberOf(values[0]?.decoded ?? undefined) === String(OWNER.sidecar),
  );
  const sidecarUid = numberOf(fieldOf(sidecar?.key.decoded, 'id'));
  return MESH_PROFILES.find(
    (known) =>
      number('outbound_port') === String(known.outboundPort) && number('inbound_port') === String(known.inboundPort) && sidecarUid === String(known.proxyUid),
  );
}

/** The entries of the map of this name; the kernel's name of read-only data begins with that of its object. */
function entriesOf(bpf: BpfState, maps: readonly MapInfo[], name: string): readonly MapEntry[] {
  const map = maps.find((candidate) => candidate.name === name || (name.startsWith('.') && candidate.name.endsWith(name)));
  return bpf.contents.find(({ mapId }) => mapId === map?.id)?.entries ?? [];
}

function fieldOf(value: DecodedValue | null | undefined, name: string): DecodedValue | undefined {
  return value?.kind === 'struct' ? value.fields.find((field) => field.name === name)?.value : undefined;
}

function numberOf(value: DecodedValue | undefined): string | undefined {
  return value?.kind === 'number' || value?.kind === 'wide' || value?.kind === 'port' ? String(value.value) : undefined;
}
