import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import { Address } from '../netfilter/address.ts';
import { PROTOCOL } from '../netfilter/protocolNumbers.ts';
import { Connection, ConnectionTracker, DEFAULT_ZONE } from './conntrack.ts';
import type { NatChoice, NatSide } from './nat.ts';
import { NULL_CHOICE, bindConnection } from './nat.ts';
import { invertKnownTuple, writeTuple } from './tuple.ts';

const at = (text: string): Address => Address.of(toIpAddress(text));
const CLIENT = at('10.9.0.1');
const RANGE = { first: at('10.9.0.100'), last: at('10.9.0.200') };

/** Settles a UDP connection as its rule would, and gives the tuple of its packets after it. */
function bind(tracker: ConnectionTracker, ends: { readonly sourcePort: number; readonly destination: string; readonly destinationPort: number }, side: NatSide, choice: Partial<NatChoice>): string {
  const tuple = { protocol: PROTOCOL.udp, source: CLIENT, sourcePort: ends.sourcePort, destination: at(ends.destination), destinationPort: ends.destinationPort };
  const connection = new Connection(tuple, invertKnownTuple(tuple), DEFAULT_ZONE, false);
  bindConnection(tracker, connection, side, { ...NULL_CHOICE, ...choice }, () => 0);
  const [other, none] = side === 'source' ? (['destination', NULL_CHOICE] as const) : (['source', NULL_CHOICE] as const);
  bindConnection(tracker, connection, other, none, () => 0);
  tracker.confirm(connection);
  return writeTuple(invertKnownTuple(connection.reply));
}

// What Linux 6.18 gave in a network namespace, in this order, with the same rules (conntrack -L).
test('a range of addresses gives the one that the kernel gives, and a source keeps the one that it had', () => {
  const tracker = new ConnectionTracker([]);
  assert.equal(bind(tracker, { sourcePort: 4001, destination: '10.9.0.77', destinationPort: 5000 }, 'source', { addresses: RANGE }), '10.9.0.167:4001 → 10.9.0.77:5000');
  assert.equal(bind(tracker, { sourcePort: 4001, destination: '10.9.0.78', destinationPort: 5000 }, 'source', { addresses: RANGE, persistent: true }), '10.9.0.167:4001 → 10.9.0.78:5000');
});

test('a range of destination ports is searched from its beginning, and a port inside of it is kept', () => {
  const tracker = new ConnectionTracker([]);
  const choice = { addresses: { first: at('10.9.0.77'), last: at('10.9.0.77') }, ports: { first: 8000, last: 8010 } };
  const to = (sourcePort: number, destination: string, destinationPort: number): string => bind(tracker, { sourcePort, destination, destinationPort }, 'destination', choice);
  assert.equal(to(4101, '10.9.0.79', 53), '10.9.0.1:4101 → 10.9.0.77:8000');
  assert.equal(to(4101, '10.9.0.80', 53), '10.9.0.1:4101 → 10.9.0.77:8001');
  assert.equal(to(4101, '10.9.0.79', 8005), '10.9.0.1:4101 → 10.9.0.77:8005');
  assert.equal(to(4102, '10.9.0.79', 53), '10.9.0.1:4102 → 10.9.0.77:8000');
});

test('two connections that one destination would make the same get different source ports', () => {
  const tracker = new ConnectionTracker([]);
  const choice = { addresses: { first: at('127.0.0.1'), last: at('127.0.0.1') }, ports: { first: 15_001, last: 15_001 } };
  assert.equal(bind(tracker, { sourcePort: 4000, destination: '10.1.0.1', destinationPort: 80 }, 'destination', choice), '10.9.0.1:4000 → 127.0.0.1:15001');
  assert.equal(bind(tracker, { sourcePort: 4000, destination: '10.1.0.2', destinationPort: 80 }, 'destination', choice), '10.9.0.1:1024 → 127.0.0.1:15001');
});

test('forks of a table change apart', () => {
  const tracker = new ConnectionTracker([]);
  bind(tracker, { sourcePort: 1, destination: '10.1.0.1', destinationPort: 80 }, 'source', {});
  const fork = tracker.fork();
  const tuple = { protocol: PROTOCOL.udp, source: CLIENT, sourcePort: 1, destination: at('10.1.0.1'), destinationPort: 80 };
  const found = fork.find(tuple, 0);
  assert.ok(found !== undefined);
  found.connection.mark = 7;
  assert.equal(tracker.find(tuple, 0)?.connection.mark, 0);
  fork.remove(found.connection);
  assert.equal(fork.find(tuple, 0), undefined);
  assert.equal(fork.entries().length, 0);
  assert.equal(tracker.entries().length, 1);
  bind(tracker, { sourcePort: 2, destination: '10.1.0.1', destinationPort: 80 }, 'source', {});
  assert.equal(fork.entries().length, 0);
});
