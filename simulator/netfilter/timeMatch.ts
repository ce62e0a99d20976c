import type { ArgumentReader, Extension } from './extension.ts';
import { findOption, impliedOption } from './extension.ts';
import { flag, fromText } from './optionArguments.ts';
import type { ExtensionOption } from './ruleSet.ts';

const WEEKDAYS = ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'] as const;
const MAX_DATE = 0x7fff_ffff;
const DAY_END = '23:59:59';

/** `-m time` (libxt_time.c). */
export const timeMatch: Extension = {
  name: 'time',
  options: [
    { name: 'timestart', read: timeOfDay },
    { name: 'timestop', read: timeOfDay },
    { name: 'monthdays', negatable: true, read: monthDays },
    { name: 'weekdays', negatable: true, read: weekDays },
    { name: 'datestart', read: date },
    { name: 'datestop', read: date },
    { name: 'utc', excludes: ['kerneltz', 'localtz'], read: flag },
    { name: 'kerneltz', aliases: ['localtz'], excludes: ['utc'], read: flag },
    { name: 'contiguous', read: flag },
  ],
  complete: (options) => {
    const start = findOption(options, 'timestart') ?? impliedOption('timestart', { value: { type: 'number', value: 0 }, text: '00:00:00' });
    const stop = findOption(options, 'timestop') ?? impliedOption('timestop', { value: { type: 'number', value: 86_399 }, text: DAY_END });
    const isWholeDay = start.text === '00:00:00' && stop.text === DAY_END;
    return [
      ...(isWholeDay ? [] : [start, stop]),
      ...withDates(options).flatMap((option) => {
        switch (option.name) {
          case 'monthdays':
            return days(option, Array.from({ length: 31 }, (_, index) => index + 1));
          case 'weekdays':
            return days(option, WEEKDAYS.map((_, index) => index + 1));
          case 'datestart':
          case 'datestop':
            return option.value.type === 'number' && option.value.value === 0 ? [] : [option];
          case 'kerneltz':
          case 'contiguous':
            return [option];
          default:
            return [];
        }
      }),
    ];
  },
  check: (_, options) => {
    const start = findOption(options, 'timestart')?.value;
    const stop = findOption(options, 'timestop')?.value;
    const spans = start?.type === 'number' && stop?.type === 'number' && start.value > stop.value;
    return options.some(({ name }) => name === 'contiguous') && !spans ? 'time takes --contiguous where the stop is before the start only.' : null;
  },
};

/** Without a last date the kernel keeps the last second that 31 bits can hold. */
function withDates(options: readonly ExtensionOption[]): readonly ExtensionOption[] {
  if (findOption(options, 'datestop') !== undefined) {
    return options;
  }
  const end = impliedOption('datestop', { value: { type: 'number', value: MAX_DATE }, text: new Date(MAX_DATE * 1000).toISOString().slice(0, 19) });
  const behind = options.filter(({ name }) => ['utc', 'kerneltz', 'contiguous'].includes(name));
  return [...options.filter((option) => !behind.includes(option)), end, ...behind];
}

/** The kernel keeps the days that match: those that are negated are the others, and all of them say nothing. */
function days(option: ExtensionOption, all: readonly number[]): ExtensionOption[] {
  const given = option.value.type === 'numbers' ? option.value.numbers : [];
  const kept = all.filter((day) => given.includes(day) !== option.negated);
  const text = option.name === 'weekdays' ? kept.map((day) => WEEKDAYS[day - 1]).join(',') : kept.join(',');
  return kept.length === all.length ? [] : [{ ...option, negated: false, value: { type: 'numbers', numbers: kept }, text }];
}

function timeOfDay(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a time of day such as 08:30 or 08:30:00', (text) => {
    const [, hour = '', minute = '', second = '0'] = /^(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?$/.exec(text) ?? [];
    const parts = [hour, minute, second].map(Number);
    if (hour === '' || (parts[0] ?? 0) > 23 || (parts[1] ?? 0) > 59 || (parts[2] ?? 0) > 59) {
      return undefined;
    }
    return { value: { type: 'number', value: (parts[0] ?? 0) * 3600 + (parts[1] ?? 0) * 60 + (parts[2] ?? 0) }, text: parts.map((part) => String(part).padStart(2, '0')).join(':') };
  })(take, family, peek);
}

/** Reads `YYYY[-MM[-DD[Thh[:mm[:ss]]]]]` as seconds since 1970, UTC. */
function date(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a date such as 2026-01-31T08:30:00', (text) => {
    const found = /^(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:T(\d{1,2})(?::(\d{1,2})(?::(\d{1,2}))?)?)?)?)?$/.exec(text);
    if (found === null) {
      return undefined;
    }
    const [year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0] = found.slice(1).map((part: string | undefined) => (part === undefined ? undefined : Number(part)));
    if (year < 1970 || year > 2038 || month > 12 || day > 31 || hour > 23 || minute > 59 || second > 59) {
      return undefined;
    }
    const seconds = Date.UTC(year, month - 1, day, hour, minute, second) / 1000;
    return seconds < 0 ? undefined : { value: { type: 'number', value: seconds }, text: new Date(seconds * 1000).toISOString().slice(0, 19) };
  })(take, family, peek);
}

function monthDays(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText('a comma list of days from 1 to 31', (text) => {
    const numbers = text.split(',', 64).map((day) => (/^\d{1,2}$/.test(day) ? Number(day) : Number.NaN));
    return numbers.every((day) => day >= 1 && day <= 31) ? { value: { type: 'numbers', numbers }, text: numbers.join(',') } : undefined;
  })(take, family, peek);
}

function weekDays(...[take, family, peek]: Parameters<ArgumentReader>): ReturnType<ArgumentReader> {
  return fromText(`a comma list of ${WEEKDAYS.join(', ')} or of numbers from 1, which is Monday`, (text) => {
    const numbers = text.split(',', 64).map((day) => (/^[1-7]$/.test(day) ? Number(day) : WEEKDAYS.findIndex((name) => day.length >= 2 && name.startsWith(day.slice(0, 2))) + 1));
    return numbers.every((day) => day >= 1) ? { value: { type: 'numbers', numbers }, text: numbers.join(',') } : undefined;
  })(take, family, peek);
}
