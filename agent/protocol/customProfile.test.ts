import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ISTIO_PROFILE, MESH_PROFILES } from './acceleration.ts';
import type { ProfileOverrides } from './acceleration.ts';
import { customizeProfile } from './customProfile.ts';
import { MeshpathError } from './errors.ts';
import { isWithin, parseIpPrefix } from './ipAddress.ts';
import type { IpPrefix, PortNumber } from './scalars.ts';

/** Gives the reason for which overrides of Istio's profile are refused. */
function refusal(overrides: object, name = 'istio'): string {
  try {
    customizeProfile(name, overrides);
  } catch (error) {
    assert.ok(MeshpathError.is(error, 'PROFILE_INVALID'), String(error));
    return error.reason;
  }
  assert.fail('it was accepted');
}

test('every profile is taken as it is, and is valid as its own overrides', () => {
  for (const profile of MESH_PROFILES) {
    assert.deepEqual(customizeProfile(profile.name), profile);
    assert.deepEqual(customizeProfile(profile.name, profile), profile);
  }
});

test('what is overridden takes the place of what the profile has, in its canonical form', () => {
  const overrides = {
    name: 'my-mesh',
    dnsPort: null,
    excludedOutboundPorts: [443, 80, 443],
    excludedOutboundRanges: ['10.97.1.2/12', '0.0.0.0/0', 'FD00::1/8', '192.0.2.1'],
    includedInboundRanges: ['::/0'],
  } as unknown as ProfileOverrides;
  assert.deepEqual(customizeProfile('istio', overrides), {
    ...ISTIO_PROFILE,
    name: 'my-mesh',
    dnsPort: null,
    excludedOutboundPorts: [443, 80],
    excludedOutboundRanges: ['10.96.0.0/12', '0.0.0.0/0', 'fd00::/8', '192.0.2.1/32'],
    includedInboundRanges: ['::/0'],
  });
});

test('refuses what is no profile, and says which part and why', () => {
  assert.match(refusal({}, 'nomesh'), /istio, linkerd, kuma, osm/);
  assert.match(refusal({ colour: 1 }), /outboundPort/);
  assert.match(refusal({ toString: 1 }), /outboundPort/);
  assert.match(refusal({ outboundPort: 65_536 }), /outboundPort: '65536' is not a port/);
  assert.match(refusal({ inboundPort: 0 }), /inboundPort/);
  assert.match(refusal({ excludedInboundPorts: [80, '81'] }), /excludedInboundPorts: '"81"'/);
  assert.match(refusal({ excludedInboundPorts: 80 }), /is not a list/);
  assert.match(refusal({ proxyUid: -1 }), /proxyUid/);
  assert.match(refusal({ passedGids: [2 ** 32 - 1] }), /passedGids/);
  assert.match(refusal({ excludedOutboundRanges: ['10.0.0.0/33'] }), /10\.0\.0\.0\/33/);
  assert.match(refusal({ excludedOutboundRanges: ['10.0.0/8'] }), /10\.0\.0\/8/);
  assert.match(refusal({ passthroughSource: '::6' }), /IPv4/);
  assert.match(refusal({ redirectsOwnPod: 1 }), /redirectsOwnPod/);
  assert.match(refusal({ name: 'linkerd' }), /another profile/);
  assert.match(refusal({ name: 'A b' }), /name/);
  assert.match(refusal({ passedUids: Array.from({ length: 101 }, (_, uid) => uid) }), /101/);
});

test('refuses what is both included and excluded', () => {
  assert.match(refusal({ includedInboundPorts: [15_020] }), /the port 15020 is excluded too/);
  // A list of what is excluded does not take the place of the ports of tunnels.
  assert.match(refusal({ includedInboundPorts: [15_008], excludedInboundPorts: [] }), /the port 15008 is excluded too/);
  assert.doesNotThrow(() => customizeProfile('istio', { includedOutboundPorts: [15_008 as PortNumber] }));
  const ranges = (included: string, excluded: string): object => ({ includedOutboundRanges: [included], excludedOutboundRanges: [excluded] });
  assert.match(refusal(ranges('10.0.0.0/8', '10.0.0.0/8')), /excluded too/);
  assert.match(refusal(ranges('10.1.0.0/16', '10.0.0.0/8')), /within 10\.0\.0\.0\/8/);
  assert.match(refusal(ranges('10.1.0.0/16', '0.0.0.0/0')), /within/);
  assert.doesNotThrow(() => customizeProfile('istio', ranges('10.0.0.0/8', '10.1.0.0/16')));
  assert.doesNotThrow(() => customizeProfile('istio', ranges('10.0.0.0/8', '::/0')));
});

test('ranges are read bit by bit', () => {
  assert.equal(parseIpPrefix('255.255.255.255/9'), '255.128.0.0/9');
  assert.equal(parseIpPrefix('ffff::/0'), '::/0');
  assert.equal(parseIpPrefix('fe80::1/10'), 'fe80::/10');
  for (const text of ['', '/8', '10.0.0.0/', '10.0.0.0/08', '10.0.0.0/-1', '10.0.0.0/8/8', '::/129', 'x/8']) {
    assert.equal(parseIpPrefix(text), undefined, text);
  }
  assert.equal(isWithin('10.1.2.3/32' as IpPrefix, '10.1.2.0/31' as IpPrefix), false);
  assert.equal(isWithin('10.1.2.3/32' as IpPrefix, '10.1.2.2/31' as IpPrefix), true);
});
