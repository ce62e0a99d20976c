/** Gives text a look on terminals that have colours. */
export interface Style {
  readonly bold: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly good: (text: string) => string;
  readonly warning: (text: string) => string;
  readonly bad: (text: string) => string;
  readonly accent: (text: string) => string;
}

/** Leaves text as it is: for pipes, files and tests. */
export const PLAIN_STYLE: Style = {
  bold: (text) => text,
  dim: (text) => text,
  good: (text) => text,
  warning: (text) => text,
  bad: (text) => text,
  accent: (text) => text,
};

/** The look by SGR sequences (ECMA-48, 8.3.117), in the terminal's own sixteen colours. */
export const COLOUR_STYLE: Style = {
  bold: (text) => sequence(1, text, 22),
  dim: (text) => sequence(2, text, 22),
  good: (text) => sequence(32, text, 39),
  warning: (text) => sequence(33, text, 39),
  bad: (text) => sequence(31, text, 39),
  accent: (text) => sequence(36, text, 39),
};

/** Chooses colours for a terminal unless NO_COLOR is set to anything (no-color.org) or the terminal is a dumb one. */
export function chooseStyle(isTerminal: boolean, environment: Readonly<Record<string, string | undefined>>): Style {
  const unwanted = (environment['NO_COLOR'] ?? '') !== '' || environment['TERM'] === 'dumb';
  return isTerminal && !unwanted ? COLOUR_STYLE : PLAIN_STYLE;
}

function sequence(on: number, text: string, off: number): string {
  return text === '' ? '' : `\u001b[${on}m${text}\u001b[${off}m`;
}
