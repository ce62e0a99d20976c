import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PodEnrolment } from './acceleration.ts';
import { MeshpathError } from './errors.ts';
import type { ErrorCode } from './errors.ts';
import type { CgroupPath, IpAddress } from './scalars.ts';
import { checkCgroup, checkEnrolments } from './enrolment.ts';

function pod(cgroup: string, ...addresses: string[]): PodEnrolment {
  return { cgroup: cgroup as CgroupPath, addresses: addresses as IpAddress[] };
}

function refused(code: ErrorCode): (error: unknown) => boolean {
  return (error) => MeshpathError.is(error, code) && error.message !== '' && error.reason !== '' && error.remedy !== '';
}

test('gives pods in canonical form', () => {
  assert.deepEqual(checkEnrolments([pod('//kubepods/pod1/', '10.0.0.2', 'FD00:0::2', '::ffff:10.0.0.2')], []), [
    pod('/kubepods/pod1', '10.0.0.2', 'fd00::2'),
  ]);
});

test('refuses a cgroup twice, inside of another, and above another', () => {
  const enrolled = [pod('/kubepods/pod1', '10.0.0.2')];
  assert.throws(() => checkEnrolments([pod('/kubepods/pod1/', '10.0.0.9')], enrolled), refused('ACCELERATION_ALREADY_ON'));
  assert.throws(() => checkEnrolments([pod('/kubepods/pod1/app', '10.0.0.9')], enrolled), refused('ACCELERATION_OVERLAPS'));
  assert.throws(() => checkEnrolments([pod('/kubepods', '10.0.0.9')], enrolled), refused('ACCELERATION_OVERLAPS'));
  assert.throws(() => checkEnrolments([pod('/a/b', '10.0.0.9'), pod('/a', '10.0.0.8')], []), refused('ACCELERATION_OVERLAPS'));
  assert.equal(checkEnrolments([pod('/kubepods/pod10', '10.0.0.9')], enrolled).length, 1);
});

test('refuses an address that another pod has, however it is written', () => {
  assert.throws(() => checkEnrolments([pod('/b', '::ffff:10.0.0.2')], [pod('/a', '10.0.0.2')]), refused('ACCELERATION_OVERLAPS'));
});

test('refuses what is no address of a pod', () => {
  for (const address of ['10.0.0', '127.0.0.1', '0.0.0.0', '224.0.0.1', '255.255.255.255', '::1', '::', 'ff02::1', 'fe80::1%eth0', '']) {
    assert.throws(() => checkEnrolments([pod('/a', '10.0.0.2', address)], []), refused('INPUT_INVALID'), address);
  }
  assert.deepEqual(checkEnrolments([pod('/a', 'fd00::2')], []), [pod('/a', 'fd00::2')]);
  assert.throws(() => checkEnrolments([pod('/a')], []), refused('INPUT_INVALID'));
  assert.throws(() => checkEnrolments([], []), refused('INPUT_INVALID'));
});

test('refuses more than it has room for', () => {
  const addresses = Array.from({ length: 17 }, (_, index) => `10.0.1.${index}`);
  assert.throws(() => checkEnrolments([pod('/a', ...addresses)], []), refused('LIMIT_EXCEEDED'));
  const pods = Array.from({ length: 1_025 }, (_, index) => pod(`/p${index}`, `10.${index >> 8}.${index & 255}.1`));
  assert.throws(() => checkEnrolments(pods, []), refused('LIMIT_EXCEEDED'));
});

test('refuses paths that are not below the root of the hierarchy', () => {
  for (const path of ['', 'kubepods', '/', '//', '/a/../b', '/./a', '/a\0b', `/${'a'.repeat(5_000)}`]) {
    assert.throws(() => checkCgroup(path), refused('INPUT_INVALID'), path);
  }
  assert.equal(checkCgroup('/a..b/.c'), '/a..b/.c');
});
