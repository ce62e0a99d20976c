import type { Style } from './text/style.ts';

/** Where a command writes its result. */
export interface Output {
  readonly style: Style;
  /** Columns of the terminal; Infinity for a pipe or file. */
  readonly width: number;
  /** Writes text and waits while the reader is slower; does nothing once the reader has gone. */
  write(text: string): Promise<void>;
}

/** Writes lines, each with its end. */
export async function writeLines(output: Output, lines: readonly string[]): Promise<void> {
  if (lines.length > 0) {
    await output.write(`${lines.join('\n')}\n`);
  }
}

/** Writes one JSON document, indented, with a line end. */
export async function writeJson(output: Output, value: unknown): Promise<void> {
  await output.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** Gives an Output on a stream. `onClosed` is called once when the reader has gone (EPIPE) or the stream has failed. */
export function createOutput(stream: NodeJS.WriteStream, style: Style, onClosed: () => void): Output {
  let closed = false;
  stream.on('error', () => {
    if (!closed) {
      closed = true;
      onClosed();
    }
  });
  return {
    style,
    width: stream.isTTY ? Math.max(40, stream.columns) : Infinity,
    write: (text) =>
      new Promise((resolve) => {
        if (closed) {
          resolve();
        } else {
          // The callback comes with an error too; the error itself goes to the listener above.
          stream.write(text, () => {
            resolve();
          });
        }
      }),
  };
}
