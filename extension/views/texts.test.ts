import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DECISION_REASONS, type DecisionEvent } from '../../agent/protocol/acceleration.ts';
import { MeshpathError, cancelledError, inputError, toMeshpathError } from '../../agent/protocol/errors.ts';
import type { IpAddress, PortNumber, Uint64Text } from '../../agent/protocol/scalars.ts';
import type { LabRunReport } from '../../agent/protocol/lab.ts';
import { writeDoctorDocument } from './doctorDocument.ts';
import { writeLabDocument } from './labDocument.ts';
import type { DoctorCheck } from '../../agent/protocol/doctor.ts';
import { describeLimits, describeOverride } from './limitTexts.ts';
import { escapeMarkdown } from './markdown.ts';
import { describeError } from './errorNotice.ts';
import { spellEvent } from './eventText.ts';
import { readEndpoint } from './flowChoices.ts';
import { readTargetKey, targetKey } from './nodeDirectory.ts';
import { describeStatus } from './statusText.ts';

test('an error becomes a text with what to do and buttons that help', () => {
  const changed = new MeshpathError({ code: 'HOST_KEY_MISMATCH', message: 'The key changed.', reason: 'It is another one.', remedy: 'Forget it.' });
  const buttons = (error: MeshpathError, canRetry: boolean): string[] => describeError(error, canRetry)?.buttons.map((button) => button.title) ?? [];
  assert.deepEqual(
    {
      text: describeError(changed, true)?.text,
      changed: buttons(changed, true),
      input: buttons(inputError('m', 'r', 'd'), true),
      cancelled: describeError(cancelledError('x'), true),
      unknown: describeError(toMeshpathError(new Error('boom')), false)?.text.includes('boom'),
    },
    { text: 'The key changed. It is another one. Forget it.', changed: ['Forget Host Key…', 'Show Log'], input: ['Retry', 'Show Log'], cancelled: undefined, unknown: true },
  );
});

test('text of a node stays text in the report of the doctor', () => {
  const evil = '[x](command:evil) <img src=x> `a` | **b**\n# c';
  assert.doesNotMatch(escapeMarkdown(evil), /(?<!\\)[[\]()`|*#<>\n]/);
  const report = writeDoctorDocument('node', { verdict: 'safe', summary: evil, at: '', checks: [{ id: 'i', title: evil, result: 'failed', found: evil, problem: { code: 'INTERNAL', message: evil, reason: evil, remedy: evil } }] });
  assert.doesNotMatch(report, /\[x\]|<img/);
  assert.equal(report.split('\n').filter((line) => line.startsWith('|')).length, 3);
});

test('every reason of a decision has words, and a line holds the tuple', () => {
  const event = (reason: DecisionEvent['reason']): DecisionEvent => ({
    bootNanoseconds: '1234567890123' as Uint64Text,
    hook: 'sk_msg',
    reason,
    errno: 0,
    socketCookie: '1' as Uint64Text,
    cgroupId: '1' as Uint64Text,
    netnsCookie: '1' as Uint64Text,
    uid: 1337,
    local: { address: '10.0.0.1' as IpAddress, port: 1 as PortNumber },
    remote: { address: 'fd00::2' as IpAddress, port: 2 as PortNumber },
    original: null,
    bytes: 64,
  });
  const lines = DECISION_REASONS.map((reason) => spellEvent(event(reason)));
  assert.equal(new Set(lines).size, DECISION_REASONS.length);
  assert.ok(lines.every((line) => line.startsWith('   1234.567890  sk_msg') && line.includes('10.0.0.1:1 → [fd00::2]:2') && line.endsWith('(64 bytes, user 1337)')), lines[0]);
});

test('endpoints are read as people write them, and nothing else is', () => {
  assert.deepEqual(readEndpoint(' 10.0.0.1:80 '), { address: '10.0.0.1', port: 80 });
  assert.deepEqual(readEndpoint('[fd00::1]:443'), { address: 'fd00::1', port: 443 });
  for (const text of ['', '10.0.0.1', '10.0.0.1:0', '10.0.0.1:65536', 'fd00::1:443', 'example.org:80', '10.0.0.300:80', '10.0.0.1:8a']) {
    assert.throws(() => readEndpoint(text), (error: unknown) => MeshpathError.is(error, 'INPUT_INVALID'), text);
  }
});

test('the status bar counts nodes and accelerated pods', () => {
  const status = (phases: readonly Parameters<typeof describeStatus>[0][number]['phase'][], pods = 0): string | undefined =>
    describeStatus(
      phases.map((phase) => ({
        label: 'n',
        phase,
        accelerations: pods === 0 ? [] : [{ profile: 'istio', pods: Array.from({ length: pods }, () => ({ cgroup: '/a' as never, addresses: [] })), since: '', programIds: [], mapIds: [], linkIds: [] }],
      })),
    )?.spoken;
  assert.deepEqual(
    [status([]), status(['closed']), status(['ready', 'deploying']), status(['ready', 'ready']), status(['ready'], 2)],
    [undefined, 'Meshpath: not connected', 'Meshpath: connecting…', 'Meshpath: 2 nodes', 'Meshpath: 1 node, accelerating 2 pods'],
  );
});

test('a target survives being a key', () => {
  for (const target of [{ kind: 'simulated' }, { kind: 'thisMachine' }, { kind: 'ssh', host: 'me@[::1]:22' }] as const) {
    assert.deepEqual(readTargetKey(targetKey(target)), target);
  }
  assert.deepEqual(['ssh:', '', 'other'].map(readTargetKey), [undefined, undefined, undefined]);
});

test('the report of a run in a lab says what each end saw, and text of a node stays text in it', () => {
  const destination = { address: '10.77.0.12' as IpAddress, port: 8080 as PortNumber };
  const evil = '[x](command:evil) <img src=x>';
  const report: LabRunReport = {
    lab: evil,
    from: 'pod-a',
    to: 'pod-b',
    destination,
    exact: 19,
    failures: [{ value: 'ETIMEDOUT', count: 1 }],
    bytes: 1_900,
    clientPeers: [{ value: destination, count: 19 }],
    serverPeers: [{ value: '127.0.0.6' as IpAddress, count: 19 }],
    sidecars: [{ pod: 'pod-a', side: 'outbound', connections: 19, originalDestinations: [{ value: destination, count: 18 }, { value: null, count: 1 }], peers: [{ value: '10.77.0.11' as IpAddress, count: 19 }] }],
    legs: [{ text: `${evil} (pod-a) → envoy (pod-a)`, count: 4, state: 'not', reason: 'opened_before' }],
    connectLatency: { least: 90.4, median: 410.2, most: 5_200 },
    exchangeLatency: null,
    decisions: [],
    events: [],
    lostEvents: 2,
    omissions: [evil],
  };
  const text = writeLabDocument('node', report);
  assert.doesNotMatch(text, /\[x\]|<img/);
  const plain = text.replaceAll('\\', '');
  for (const words of ['19 of 20 to 10.77.0.12:8080 exact', '1 failed: ETIMEDOUT', 'meant for 10.77.0.12:8080 (18 ×)', 'nothing (SO_ORIGINAL_DST failed) (1 ×)', 'come from 127.0.0.6 (19 ×)', 'median 410 µs, from 90 µs to 5.20 ms', 'through TCP (It was open before']) {
    assert.ok(plain.includes(words), words);
  }
});

test('the dialogs before acceleration name what applications would notice, and what is overridden', () => {
  const checks = Array.from({ length: 8 }, (_, index): DoctorCheck => ({ id: `check-${index}`, title: `Check ${index}`, result: 'limited', found: 'Found.', problem: index === 0 ? null : { code: 'KERNEL_UNSUITABLE', message: `Programs see ${index}.`, reason: '', remedy: '' } }));
  assert.deepEqual(describeLimits(checks.slice(0, 2)), ['• Check 0: Found.', '• Check 1: Programs see 1.']);
  assert.equal(describeLimits(checks).at(-1), '• and 2 more, which the doctor’s report names');
  const { question, detail } = describeOverride('node-1', checks);
  assert.equal(question, 'Acceleration is not safe at node-1.');
  assert.match(detail, /in spite of: check-0, .*check-7\. It is written to the log/);
});
