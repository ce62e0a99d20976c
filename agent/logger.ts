import type { Writable } from 'node:stream';

export type LogLevel = 'debug' | 'info' | 'warning' | 'error';

/** Writes what happens for people who look for a fault. Never anything secret. */
export type Log = (level: LogLevel, message: string, details?: Readonly<Record<string, string | number | boolean | null>>) => void;

/** Gives a log that writes one JSON object a line. Whoever reads the stream may be gone: that is not an error. */
export function createJsonLog(output: Writable): Log {
  let isOpen = true;
  output.on('error', () => {
    isOpen = false;
  });
  return (level, message, details) => {
    if (isOpen) {
      output.write(`${JSON.stringify({ at: new Date().toISOString(), level, message, ...details })}\n`);
    }
  };
}
