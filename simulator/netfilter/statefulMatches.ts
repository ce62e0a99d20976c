import { Address, maskWords, networkMask } from './address.ts';
import type { ExtensionMatch, ModuleCompiler } from './compileExtension.ts';
import { decide, numberOf, option } from './compileExtension.ts';
import { FAILED, MATCHED, UNKNOWN } from './compileMatch.ts';
import type { MatchResult } from './compileMatch.ts';
import type { MatchEnvironment } from './matchEnvironment.ts';
import { POISONED } from './matchState.ts';
import type { NamedLists } from './namedLists.ts';
import { makerOf } from './namedLists.ts';
import type { Packet } from './packet.ts';

/** XT_LIMIT_SCALE: rates are periods in ten-thousandths of a second. */
const LIMIT_SCALE = 10_000;
const DEFAULT_BURST = 5;
/** More times than the kernel keeps for one address by default (xt_recent.c, XT_RECENT_MAX_NSTAMPS). */
const MAX_STAMPS = 65_535;
const SECONDS_A_DAY = 86_400;

let instances = 0;

/** A name of what one rule remembers: two rules never share it. */
function nextInstance(module: string): string {
  instances += 1;
  return `${module} ${instances}`;
}

interface Bucket {
  readonly credit: number;
  readonly at: number;
}

/** A token bucket (net/netfilter/xt_limit.c, limit_mt; xt_hashlimit.c): full at the beginning, it refills with time. */
function takeToken(environment: MatchEnvironment, key: string, cost: number, most: number): boolean | null {
  const { now, state } = environment;
  const known = state.get(key);
  if (known === POISONED) {
    return null;
  }
  if (known === undefined) {
    environment.assume('Limits of rates begin full.');
  }
  const bucket = (known as Bucket | undefined) ?? { credit: most, at: now };
  const credit = Math.min(most, bucket.credit + Math.max(0, now - bucket.at));
  // Sums of fractions of seconds are not exact; the kernel counts in whole jiffies.
  const taken = credit + 1e-9 >= cost;
  state.set(key, { credit: taken ? credit - cost : credit, at: now } satisfies Bucket);
  return taken;
}

/** Parts of a second in which xt_limit counts, by the tick rates that kernels are built with (CREDITS_PER_JIFFY times HZ). */
const LIMIT_CREDITS: readonly number[] = [100 * 256, 250 * 128, 300 * 128, 1000 * 32];

/**
 * The most seconds that a limit saves: the kernel keeps them in 32 bits, and what does not fit wraps round (net/netfilter/xt_limit.c,
 * limit_mt_check). Rules of iptables-nft are counted in 64 bits (nft_limit.c). Null where it depends on the tick rate of the kernel.
 */
function mostSaved(cost: number, burst: number, lists: NamedLists | undefined): number | null {
  if (lists?.backend !== 'legacy') {
    return cost * burst;
  }
  const saved = LIMIT_CREDITS.map((credits) => ({ most: ((cost * burst * credits) % 0x1_0000_0000) / credits, isWrapped: cost * burst * credits >= 0x1_0000_0000 }));
  // A limit that would save less than one packet costs is refused.
  const possible = saved.filter(({ most }) => most >= cost);
  const [first] = possible;
  return possible.every(({ isWrapped }) => !isWrapped) || new Set(possible.map(({ most }) => Math.floor(most / cost))).size === 1 ? (first?.most ?? null) : null;
}

const limit: ModuleCompiler = (match, _, lists) => {
  const rate = option(match, 'limit')?.value;
  if (rate?.type !== 'rate') {
    return undefined;
  }
  const key = nextInstance('limit');
  const cost = rate.period / LIMIT_SCALE;
  const burst = numberOf(match, 'limit-burst') ?? DEFAULT_BURST;
  const most = mostSaved(cost, burst, lists);
  return { what: 'within the limit', isStateful: true, test: (__, environment) => (most === null ? UNKNOWN : decide(takeToken(environment, key, cost, most), false)) };
};

const hashLimit: ModuleCompiler = (own, _, lists) => {
  const match = makerOf(lists, own);
  const upto = option(own, 'hashlimit-upto');
  const rate = (option(match, 'hashlimit-upto') ?? option(match, 'hashlimit-above'))?.value;
  const name = option(match, 'hashlimit-name')?.text ?? '';
  if (rate?.type !== 'rate' || [own, match].some((one) => option(one, 'hashlimit-rate-match') !== undefined)) {
    return undefined;
  }
  const modes = option(match, 'hashlimit-mode')?.value;
  const names = modes?.type === 'names' ? modes.names : [];
  const masks = { source: maskWords(numberOf(match, 'hashlimit-srcmask') ?? 128), destination: maskWords(numberOf(match, 'hashlimit-dstmask') ?? 128) };
  const cost = rate.period / LIMIT_SCALE;
  const burst = numberOf(match, 'hashlimit-burst') ?? DEFAULT_BURST;
  const keyOf = (packet: Packet): string =>
    names.map((mode) => {
      switch (mode) {
        case 'srcip':
          return maskedText(packet.source, masks.source);
        case 'dstip':
          return maskedText(packet.destination, masks.destination);
        case 'srcport':
          return String(packet.sourcePort);
        default:
          return String(packet.destinationPort);
      }
    }).join(' ');
  return {
    what: `within the limit ${name}`, isStateful: true, actual: keyOf,
    // Rules of one name share their table (xt_hashlimit.c, htable_find_get).
    test: (packet, environment) => decide(takeToken(environment, `hashlimit ${name} ${keyOf(packet)}`, cost, cost * burst), upto === undefined),
  };
};

/** When a list of recent saw an address, oldest first. */
interface Seen {
  readonly stamps: readonly number[];
  readonly ttl: number;
}

/** net/netfilter/xt_recent.c, recent_mt. */
const recent: ModuleCompiler = (match, _, lists) => {
  const name = option(match, 'name')?.text ?? 'DEFAULT';
  const side = option(match, 'rdest') === undefined ? 'source' : 'destination';
  const maskText = option(makerOf(lists, match), 'mask')?.value;
  const mask = maskText?.type === 'addresses' ? networkMask({ address: maskText.first, prefixLength: 0, mask: maskText.first }) : maskWords(128);
  const action = (['set', 'rcheck', 'update', 'remove'] as const).find((one) => option(match, one) !== undefined);
  if (action === undefined) {
    return undefined;
  }
  const negated = option(match, action)?.negated ?? false;
  const rules = { seconds: numberOf(match, 'seconds') ?? 0, hits: numberOf(match, 'hitcount') ?? 0, sameTtl: option(match, 'rttl') !== undefined, reap: option(match, 'reap') !== undefined };
  const keyOf = (packet: Packet): string => `recent ${name} ${maskedText(packet[side], mask)}`;
  return {
    what: `address in the list ${name}`, isStateful: true, actual: (packet) => packet[side].text,
    test: (packet, environment) => {
      const { state, now } = environment;
      environment.assume('Lists of recent addresses begin empty.');
      const key = keyOf(packet);
      const known = state.get(key);
      if (known === POISONED) {
        return UNKNOWN;
      }
      const ttl = packet.outInterface !== null && packet.socket === null ? packet.ttl + 1 : packet.ttl;
      const entry = known as Seen | undefined;
      const found = entry === undefined || (rules.sameTtl && entry.ttl !== ttl) ? undefined : entry;
      const add = (): void => {
        state.set(key, { stamps: [...(found?.stamps ?? []), now].slice(-MAX_STAMPS), ttl } satisfies Seen);
      };
      return decideRecent(action, found, negated, rules, { now, add, replace: (stamps) => { state.set(key, { stamps, ttl: found?.ttl ?? ttl } satisfies Seen); }, remove: () => { state.set(key, undefined); } });
    },
  };
};

interface RecentMoves {
  readonly now: number;
  readonly add: () => void;
  readonly replace: (stamps: readonly number[]) => void;
  readonly remove: () => void;
}

function decideRecent(action: 'set' | 'rcheck' | 'update' | 'remove', found: Seen | undefined, negated: boolean, rules: { readonly seconds: number; readonly hits: number; readonly reap: boolean }, moves: RecentMoves): MatchResult {
  if (action === 'set') {
    moves.add();
    return negated ? FAILED : MATCHED;
  }
  if (found === undefined) {
    return negated ? MATCHED : FAILED;
  }
  if (action === 'remove') {
    moves.remove();
    return negated ? FAILED : MATCHED;
  }
  const fresh = rules.seconds === 0 ? found.stamps : found.stamps.filter((stamp) => stamp >= moves.now - rules.seconds);
  const holds = rules.hits === 0 ? fresh.length > 0 : fresh.length >= rules.hits;
  const result = holds !== negated;
  if (rules.reap && rules.seconds > 0) {
    moves.replace(fresh);
  }
  if (action === 'update' && result) {
    moves.add();
  }
  return result ? MATCHED : FAILED;
}

/** net/netfilter/xt_statistic.c: of every N packets one matches; which random ones do is not known, but for none and for all. */
const statistic: ModuleCompiler = (match) => {
  const probability = option(match, 'probability');
  if (probability !== undefined) {
    const value = probability.value.type === 'number' ? probability.value.value : undefined;
    return value === 0 || value === 1 ? { what: 'chance', test: () => decide(value === 1, probability.negated) } : undefined;
  }
  const every = option(match, 'every');
  const count = numberOf(match, 'every');
  const packetNumber = numberOf(match, 'packet') ?? 0;
  if (every === undefined || count === undefined) {
    return undefined;
  }
  const key = nextInstance('statistic');
  return {
    what: `packet ${packetNumber} of every ${count}`, isStateful: true,
    test: (_, { state, assume }) => {
      const known = state.get(key);
      if (known === POISONED) {
        return UNKNOWN;
      }
      if (known === undefined) {
        assume('Counters of the statistic match begin at 0.');
      }
      const seen = (known as number | undefined) ?? 0;
      state.set(key, (seen + 1) % count);
      return decide(seen === packetNumber, every.negated);
    },
  };
};

/** net/netfilter/xt_quota.c. */
const quota: ModuleCompiler = (match) => {
  const whole = numberOf(match, 'quota');
  const negated = option(match, 'quota')?.negated ?? false;
  if (whole === undefined) {
    return undefined;
  }
  const key = nextInstance('quota');
  return {
    what: 'within the quota', isStateful: true,
    test: (packet, { state, assume }) => {
      const known = state.get(key);
      if (known === POISONED) {
        return UNKNOWN;
      }
      if (known === undefined) {
        assume('Quotas begin full.');
      }
      const left = (known as number | undefined) ?? whole;
      const fits = left >= packet.length;
      state.set(key, fits ? left - packet.length : 0);
      return decide(fits, negated);
    },
  };
};

/** A connection that connlimit has counted. */
interface Counted {
  readonly id: string;
  readonly at: number;
  /** False where kernels differ on whether they count it: they have learnt not to count one that they know already. */
  readonly isCertain: boolean;
}

/** Longer than the two ticks that a kernel keeps what is not in its table. */
const SECONDS_KEPT = 1;

/**
 * net/netfilter/xt_connlimit.c, nf_conncount.c: counts the connections that this rule has seen and that are still open. Those that have ended, or
 * never came into the table, stay for two ticks, and are looked at once a tick only: for so long the count has a least and a greatest value.
 */
const connectionLimit: ModuleCompiler = (match) => {
  const above = numberOf(match, 'connlimit-above');
  const most = above ?? numberOf(match, 'connlimit-upto');
  if (most === undefined) {
    return undefined;
  }
  const key = nextInstance('connlimit');
  const mask = maskWords(numberOf(match, 'connlimit-mask') ?? 128);
  const side = option(match, 'connlimit-daddr') === undefined ? 'source' : 'destination';
  return {
    what: 'connections of the same address', isStateful: true,
    test: (packet, environment) => {
      const { now, state } = environment;
      const { id, zone, isConfirmed: isKnown } = environment.countedConnection(packet);
      const name = `${key} ${zone} ${maskedText(packet[side], mask)}`;
      const known = state.get(name);
      if (known === POISONED) {
        return UNKNOWN;
      }
      environment.assume('The connlimit match has counted no connection that was open before.');
      const isOpen = (counted: Counted): boolean => environment.isConnectionOpen(counted.id);
      const kept = ((known as readonly Counted[] | undefined) ?? []).filter((counted) => counted.at > now - SECONDS_KEPT || isOpen(counted));
      const isCounted = kept.some((counted) => counted.id === id);
      const isFirst = known === undefined;
      const certain = kept.filter((counted) => counted.isCertain && isOpen(counted));
      const least = certain.filter((counted) => counted.id !== id).length + (!isKnown || isFirst || certain.some((counted) => counted.id === id) ? 1 : 0);
      const greatest = kept.length + (isKnown && isCounted ? 0 : 1);
      state.set(name, isKnown && isCounted ? kept : [...kept, { id, at: now, isCertain: (!isKnown || isFirst) && !isCounted }] satisfies readonly Counted[]);
      // What counts nothing at all is dropped at once.
      return least > 0 && least > most === greatest > most ? decide(least > most, above === undefined) : UNKNOWN;
    },
  };
};

/** net/netfilter/xt_connbytes.c: what a connection has carried, this packet included. */
const connectionBytes: ModuleCompiler = (match) => {
  const range = option(match, 'connbytes');
  const mode = option(match, 'connbytes-mode')?.text;
  const direction = option(match, 'connbytes-dir')?.text;
  if (range?.value.type !== 'bigRange') {
    return undefined;
  }
  const [first, last] = [Number(range.value.first), Number(range.value.last)];
  const pick = ([original, reply]: readonly [number, number]): number => (direction === 'original' ? original : direction === 'reply' ? reply : original + reply);
  return {
    what: `${mode ?? ''} of the connection`,
    test: ({ tracking, zoneRule }) => {
      // A template of CT counts nothing, negated or not.
      if (tracking === null || zoneRule !== null) {
        return FAILED;
      }
      const { connection } = tracking;
      if (connection.isOld) {
        return UNKNOWN;
      }
      const [packets, bytes] = [pick(connection.packets), pick(connection.bytes)];
      const value = mode === 'packets' ? packets : mode === 'bytes' ? bytes : packets === 0 ? 0 : Math.floor(bytes / packets);
      return decide(value >= first && value <= last, range.negated);
    },
  };
};

/** net/netfilter/xt_time.c, in UTC. */
const time: ModuleCompiler = (match) => {
  if (option(match, 'kerneltz') !== undefined || option(match, 'contiguous') !== undefined) {
    return undefined;
  }
  const start = numberOf(match, 'timestart') ?? 0;
  const stop = numberOf(match, 'timestop') ?? SECONDS_A_DAY - 1;
  const dates = [numberOf(match, 'datestart') ?? 0, numberOf(match, 'datestop') ?? Infinity] as const;
  const days = (name: string): readonly number[] | null => {
    const value = option(match, name)?.value;
    return value?.type === 'numbers' ? value.numbers : null;
  };
  const [weekdays, monthdays] = [days('weekdays'), days('monthdays')];
  return {
    what: 'time', actual: (_, { now }) => new Date(now * 1000).toISOString(),
    test: (_, { now }) => {
      const date = new Date(now * 1000);
      const second = Math.floor(now) % SECONDS_A_DAY;
      const inDay = start <= stop ? second >= start && second <= stop : second >= start || second <= stop;
      const weekday = date.getUTCDay() === 0 ? 7 : date.getUTCDay();
      const holds = inDay && now >= dates[0] && now <= dates[1] && (weekdays === null || weekdays.includes(weekday)) && (monthdays === null || monthdays.includes(date.getUTCDate()));
      return decide(holds, false);
    },
  };
};

/** Modules that remember, or ask what time it is. */
export const STATEFUL_MODULES: Readonly<Record<string, (match: ExtensionMatch, siblings: Parameters<ModuleCompiler>[1], lists?: NamedLists) => ReturnType<ModuleCompiler>>> = {
  limit, hashlimit: hashLimit, recent, statistic, quota, connlimit: connectionLimit, connbytes: connectionBytes, time,
};

function maskedText(address: Address, mask: readonly [number, number, number, number]): string {
  return address.isIpv4 ? Address.ofIpv4(address.w0 & mask[0]).text : Address.ofIpv6(address.w0 & mask[0], address.w1 & mask[1], address.w2 & mask[2], address.w3 & mask[3]).text;
}
