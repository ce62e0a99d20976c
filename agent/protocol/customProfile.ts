import type { MeshProfile, ProfileOverrides } from './acceleration.ts';
import { MESH_PROFILES } from './acceleration.ts';
import { MeshpathError } from './errors.ts';
import { isIpv4, isWithin, parseIpAddress, parseIpPrefix } from './ipAddress.ts';
import type { IpAddress, IpPrefix, PortNumber } from './scalars.ts';

const MAX_LISTED_PORTS = 65_535;
const MAX_LISTED_RANGES = 4_096;
const MAX_LISTED_IDS = 100;
/** 2^32 - 1 is no user: chown(2) means by it that the owner stays. */
const MAX_ID = 0xffff_fffe;

type Field = keyof MeshProfile;
type Reader<Name extends Field> = (value: unknown, name: Name) => MeshProfile[Name];

const READERS: { readonly [Name in Field]: Reader<Name> } = {
  name: readName,
  outboundPort: readPort,
  inboundPort: readPort,
  dnsPort: (value, name) => (value === null ? null : readPort(value, name)),
  dnsResolvers: readRanges,
  excludesPortsOverUdp: readBoolean,
  proxyUid: readId,
  proxyGid: readId,
  passedUids: (value, name) => readList(value, name, MAX_LISTED_IDS, readId),
  passedGids: (value, name) => readList(value, name, MAX_LISTED_IDS, readId),
  passthroughSource: (value, name) => readSource(value, name, true),
  passthroughSourceV6: (value, name) => readSource(value, name, false),
  connectsToLocalhost: readBoolean,
  redirectsOwnPod: readBoolean,
  tunnelPorts: readPorts,
  excludedInboundPorts: readPorts,
  excludedOutboundPorts: readPorts,
  includedInboundPorts: readPorts,
  includedOutboundPorts: readPorts,
  excludedInboundRanges: readRanges,
  includedInboundRanges: readRanges,
  excludedOutboundRanges: readRanges,
  includedOutboundRanges: readRanges,
  excludesRangesFirst: readBoolean,
  excludesPortsFirst: readBoolean,
};

/** Gives the profile of a name with what is overridden in it. `overrides` may come from anywhere. Throws PROFILE_INVALID. */
export function customizeProfile(name: string, overrides: ProfileOverrides = {}): MeshProfile {
  const base = MESH_PROFILES.find((known) => known.name === name);
  if (base === undefined) {
    throw invalidProfile(
      `There is no mesh profile '${name.slice(0, 60)}'.`,
      `The profiles are: ${MESH_PROFILES.map((known) => known.name).join(', ')}.`,
      'Name one of them; what differs from it can be overridden.',
    );
  }
  const profile = { ...base, ...readOverrides(overrides) };
  if (profile.name !== base.name && MESH_PROFILES.some((known) => known.name === profile.name)) {
    throw invalidField('name', `'${profile.name}' is the name of another profile`);
  }
  refuseOverlaps(profile);
  return profile;
}

function readOverrides(overrides: ProfileOverrides): ProfileOverrides {
  const unknown = Object.keys(overrides).find((field) => !Object.hasOwn(READERS, field));
  if (unknown !== undefined) {
    throw invalidProfile(`A mesh profile has no '${unknown.slice(0, 60)}'.`, `It has: ${Object.keys(READERS).join(', ')}.`, 'Override one of these.');
  }
  return Object.fromEntries(Object.entries(overrides).map(([field, value]) => [field, readField(field as Field, value)]));
}

function readField<Name extends Field>(name: Name, value: unknown): MeshProfile[Name] {
  return READERS[name](value, name);
}

/** What is both included and excluded would be excluded, whatever was meant. */
function refuseOverlaps(profile: MeshProfile): void {
  for (const direction of ['Inbound', 'Outbound'] as const) {
    const excludedPorts = new Set([...profile[`excluded${direction}Ports`], ...(direction === 'Inbound' ? profile.tunnelPorts : [])]);
    const port = profile[`included${direction}Ports`].find((included) => excludedPorts.has(included));
    if (port !== undefined) {
      throw invalidField(`included${direction}Ports`, `the port ${port} is excluded too`);
    }
    for (const included of profile[`included${direction}Ranges`]) {
      const excluded = profile[`excluded${direction}Ranges`].find((range) => isWithin(included, range));
      if (excluded !== undefined) {
        throw invalidField(`included${direction}Ranges`, included === excluded ? `${included} is excluded too` : `${included} is within ${excluded}, which is excluded`);
      }
    }
  }
}

function readName(value: unknown): string {
  if (typeof value !== 'string' || !/^[a-z][a-z0-9-]{0,39}$/.test(value)) {
    throw invalidField('name', `${show(value)} is not up to 40 small letters, digits and hyphens`);
  }
  return value;
}

function readPort(value: unknown, name: Field): PortNumber {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > 65_535) {
    throw invalidField(name, `${show(value)} is not a port from 1 to 65535`);
  }
  return value as PortNumber;
}

function readId(value: unknown, name: Field): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > MAX_ID) {
    throw invalidField(name, `${show(value)} is not a number of a user or group`);
  }
  return value;
}

function readBoolean(value: unknown, name: Field): boolean {
  if (typeof value !== 'boolean') {
    throw invalidField(name, `${show(value)} is neither true nor false`);
  }
  return value;
}

function readSource(value: unknown, name: Field, ofIpv4: boolean): IpAddress | null {
  const address = typeof value === 'string' ? parseIpAddress(value) : undefined;
  if (value !== null && (address === undefined || isIpv4(address) !== ofIpv4)) {
    throw invalidField(name, `${show(value)} is not an ${ofIpv4 ? 'IPv4' : 'IPv6'} address`);
  }
  return address ?? null;
}

function readPorts(value: unknown, name: Field): readonly PortNumber[] {
  return readList(value, name, MAX_LISTED_PORTS, readPort);
}

function readRanges(value: unknown, name: Field): readonly IpPrefix[] {
  return readList(value, name, MAX_LISTED_RANGES, (item) => {
    const range = typeof item === 'string' ? parseIpPrefix(item) : undefined;
    if (range === undefined) {
      throw invalidField(name, `${show(item)} is not a range of addresses such as 10.96.0.0/12 or fd00::/8`);
    }
    return range;
  });
}

function readList<Item>(value: unknown, name: Field, most: number, read: (item: unknown, name: Field) => Item): readonly Item[] {
  if (!Array.isArray(value)) {
    throw invalidField(name, `${show(value)} is not a list`);
  }
  if (value.length > most) {
    throw invalidField(name, `it has ${value.length} entries, and ${most} are the most`);
  }
  return [...new Set(value.map((item: unknown) => read(item, name)))];
}

function show(value: unknown): string {
  return `'${(JSON.stringify(value) as string | undefined ?? typeof value).slice(0, 60)}'`;
}

function invalidField(field: Field, reason: string): MeshpathError {
  return invalidProfile('The mesh profile cannot be used.', `${field}: ${reason}.`, 'Correct this part of the profile.');
}

function invalidProfile(message: string, reason: string, remedy: string): MeshpathError {
  return new MeshpathError({ code: 'PROFILE_INVALID', message, reason, remedy });
}
