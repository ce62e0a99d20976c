import type { MeshpathError, WireError } from '../../agent/protocol/errors.ts';
import { escapeText } from './escape.ts';
import type { Style } from './style.ts';

/** Gives an error as lines for people: what happened, why, and what to do. */
export function formatError(error: WireError, style: Style): string[] {
  return [
    `${style.bad('meshpath:')} ${escapeText(error.message)} ${style.dim(`(${error.code})`)}`,
    ...prefixLines('Why:   ', error.reason),
    ...prefixLines('To do: ', error.remedy),
  ];
}

/** Gives an error as one line of JSON. */
export function formatErrorJson(error: MeshpathError): string {
  return JSON.stringify({ error: error.toJSON() });
}

/** Gives the stacks of an error and of what caused it as lines. */
export function formatStack(error: Error): string[] {
  const lines = (error.stack ?? error.message).split('\n').map((line) => escapeText(line));
  return error.cause instanceof Error ? [...lines, 'caused by', ...formatStack(error.cause)] : lines;
}

/** Reasons and remedies may have several lines: a compiler's or a kernel's own words. */
function prefixLines(prefix: string, text: string): string[] {
  return text.split('\n').map((line, index) => `  ${index === 0 ? prefix : ' '.repeat(prefix.length)}${escapeText(line)}`);
}
