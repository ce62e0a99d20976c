import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { AcceptedFinding, DoctorCheck, FindingEffect } from './doctor.ts';
import { decidesAcceleration, DOCTOR_CHECKS, effectOf, judge, passGate, SELF_TEST_IDS, toCheck } from './doctorChecks.ts';
import type { DoctorCheckId } from './doctorChecks.ts';
import { MeshpathError } from './errors.ts';

/** What each result of a check does: limited, failed, unknown. Changing it changes what people are asked, or refused. */
const EXPECTED: Readonly<Record<DoctorCheckId, readonly [FindingEffect, FindingEffect, FindingEffect]>> = {
  'kernel-version': ['told', 'refused', 'refused'],
  btf: ['told', 'refused', 'refused'],
  cgroup2: ['told', 'refused', 'refused'],
  'capability-bpf': ['told', 'refused', 'refused'],
  libbpf: ['told', 'refused', 'refused'],
  'hook-owners': ['told', 'refused', 'told'],
  'socket-map-users': ['told', 'refused', 'told'],
  leftovers: ['told', 'refused', 'told'],
  tools: ['none', 'none', 'none'],
  'message-order': ['asked', 'refused', 'asked'],
  'wake-up': ['asked', 'refused', 'asked'],
  peek: ['asked', 'refused', 'asked'],
  'back-pressure': ['asked', 'refused', 'asked'],
  close: ['asked', 'refused', 'asked'],
  'half-close': ['asked', 'refused', 'asked'],
  reset: ['told', 'refused', 'told'],
  fionread: ['asked', 'refused', 'asked'],
  splice: ['asked', 'refused', 'asked'],
  zerocopy: ['told', 'refused', 'told'],
  oob: ['told', 'refused', 'told'],
  ktls: ['told', 'refused', 'told'],
  enrolment: ['told', 'refused', 'told'],
  'original-destination': ['asked', 'refused', 'asked'],
  'peer-name': ['asked', 'refused', 'asked'],
  'socket-owner': ['asked', 'refused', 'asked'],
  'reused-addresses': ['asked', 'refused', 'asked'],
};

const IDS = Object.keys(DOCTOR_CHECKS) as DoctorCheckId[];

function check(id: DoctorCheckId, result: DoctorCheck['result']): DoctorCheck {
  const problem = result === 'ok' ? null : ({ code: 'KERNEL_UNSUITABLE', message: `${id} matters.`, reason: 'It was seen.', remedy: 'Do this.' } as const);
  return toCheck(id, { result, found: `Found of ${id}.`, problem });
}

function allBut(...others: readonly DoctorCheck[]): DoctorCheck[] {
  return IDS.map((id) => others.find((other) => other.id === id) ?? check(id, 'ok'));
}

function answersOf(findings: readonly AcceptedFinding[]): Record<string, string> {
  return Object.fromEntries(findings.map(({ id, answer }) => [id, answer]));
}

describe('the verdict', () => {
  it('is taken from the table alone', () => {
    for (const id of IDS) {
      assert.equal(effectOf(check(id, 'ok')), 'none', id);
      assert.deepEqual((['limited', 'failed', 'unknown'] as const).map((result) => effectOf({ id, result })), EXPECTED[id], id);
      for (const result of ['limited', 'failed', 'unknown'] as const) {
        const effect = effectOf({ id, result });
        const verdict = { none: 'safe', told: 'safe-with-limits', asked: 'safe-with-limits', refused: 'not-on-this-node' } as const;
        assert.equal(judge(allBut(check(id, result))).verdict, verdict[effect], `${id} ${result}`);
      }
    }
  });

  it('names what limits it, what is asked for first, and why it refuses', () => {
    assert.equal(judge(allBut()).summary, 'Everything that was looked at is as acceleration needs it.');
    assert.equal(
      judge(allBut(check('oob', 'limited'), check('splice', 'limited'))).summary,
      'Acceleration is possible, with limits: taking bytes with splice, urgent data (MSG_OOB).',
    );
    assert.equal(judge(allBut(check('oob', 'limited'), check('close', 'failed'), check('peek', 'failed'))).summary, 'Acceleration is not possible here: found of peek. (1 more)');
  });

  it('takes care where a check of another version is not known here', () => {
    assert.deepEqual((['ok', 'limited', 'unknown', 'failed'] as const).map((result) => effectOf({ id: 'of-tomorrow', result })), ['none', 'asked', 'asked', 'refused']);
    assert.equal(effectOf({ id: 'toString', result: 'failed' }), 'refused');
  });
});

describe('the gate', () => {
  const limits = allBut(check('oob', 'limited'), check('splice', 'limited'), check('fionread', 'limited'));

  it('tells limits where nobody is asked, and asks for those that matter', () => {
    assert.deepEqual(answersOf(passGate(limits, {})), { fionread: 'told', splice: 'told', oob: 'told' });
    assert.throws(
      () => passGate(limits, { acceptedLimits: ['splice'] }),
      (error) => MeshpathError.is(error, 'LIMITS_NOT_ACCEPTED') && error.reason.includes('fionread matters.') && !error.reason.includes('splice matters.'),
    );
    assert.deepEqual(answersOf(passGate(limits, { acceptedLimits: ['splice', 'fionread'] })), { fionread: 'accepted', splice: 'accepted', oob: 'told' });
    assert.deepEqual(passGate(allBut(), { acceptedLimits: [] }), []);
  });

  it('refuses with the code of what was found, unless each finding is overridden by name', () => {
    const missing = { ...check('capability-bpf', 'failed'), problem: { code: 'CAPABILITY_MISSING', message: 'This user may not.', reason: 'No CAP_BPF.', remedy: 'Be root.' } as const };
    const broken = allBut(missing, check('close', 'failed'));
    assert.throws(
      () => passGate(broken, { overriddenFindings: ['peek'] }),
      (error) =>
        MeshpathError.is(error, 'CAPABILITY_MISSING') &&
        error.message === 'Acceleration is refused on this node: this user may not.' &&
        error.reason.includes('It was seen.') &&
        /^Be root\. .*override it by name .*: capability-bpf, close\.$/.test(error.remedy),
    );
    assert.throws(() => passGate(broken, { overriddenFindings: ['capability-bpf'] }), { code: 'KERNEL_UNSUITABLE' });
    assert.deepEqual(answersOf(passGate(broken, { overriddenFindings: ['capability-bpf', 'close'] })), { 'capability-bpf': 'overridden', close: 'overridden' });
  });

  it('decides by what a node needs and by the self-tests, and leaves what is beside it to turning on', () => {
    const beside = IDS.filter((id) => !decidesAcceleration({ id }));
    assert.deepEqual(beside, ['hook-owners', 'socket-map-users', 'leftovers', 'tools']);
    assert.ok(SELF_TEST_IDS.every((id) => decidesAcceleration({ id })) && SELF_TEST_IDS.length === 17);
  });
});
