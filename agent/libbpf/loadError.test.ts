import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { test } from 'node:test';
import { loadError } from './loadError.ts';

const { EAGAIN, EINVAL, ENOMEM, EPERM } = constants.errno;

test('a kernel that was interrupted is worth another try, and one without memory needs some', () => {
  const interrupted = loadError(EAGAIN, 'EAGAIN (Resource temporarily unavailable)', '');
  assert.equal(interrupted.code, 'BPF_LOAD_FAILED');
  assert.equal(interrupted.reason, 'Loading failed with EAGAIN (Resource temporarily unavailable).');
  assert.match(interrupted.remedy, /Try again/);
  assert.match(loadError(ENOMEM, 'ENOMEM', '').remedy, /memory/);
  assert.match(loadError(EINVAL, 'EINVAL', '').remedy, /CONFIG_BPF_SYSCALL/);
});

test('missing privileges and a verifier that refuses are told apart', () => {
  assert.equal(loadError(EPERM, 'EPERM', '').code, 'CAPABILITY_MISSING');
  const refused = loadError(EPERM, 'EPERM', '-- BEGIN PROG LOAD LOG --\nR1 invalid mem access');
  assert.equal(refused.code, 'BPF_LOAD_FAILED');
  assert.match(refused.reason, /R1 invalid mem access/);
});
