/**
 * Every error that reaches a person has a code that programs can test, a message that says what happened, the reason
 * why it happened, and a remedy that says what to do. Never test a message: test the code.
 */
export const ERROR_CODES = [
  // The connection to a node
  'HOST_UNREACHABLE',
  'HOST_KEY_UNKNOWN',
  'HOST_KEY_MISMATCH',
  'HOST_KEY_REVOKED',
  'SSH_CONFIG_INVALID',
  'SSH_AUTHENTICATION_FAILED',
  'SSH_KEY_UNREADABLE',
  'SSH_CONNECTION_LOST',
  'SSH_PROTOCOL_FAILED',
  // The agent on the node
  'AGENT_NODE_MISSING',
  'AGENT_NODE_TOO_OLD',
  'AGENT_UPLOAD_FAILED',
  'AGENT_START_FAILED',
  'AGENT_PROTOCOL_MISMATCH',
  'AGENT_STOPPED',
  'AGENT_PLATFORM_UNSUPPORTED',
  'SUDO_UNAVAILABLE',
  'SUDO_PASSWORD_WRONG',
  // The kernel of the node
  'CAPABILITY_MISSING',
  'KERNEL_TOO_OLD',
  'KERNEL_UNSUITABLE',
  'BTF_MISSING',
  'CGROUP2_MISSING',
  'CGROUP_NOT_FOUND',
  'BPFFS_MISSING',
  'LIBBPF_MISSING',
  'LIBBPF_TOO_OLD',
  'BPF_OBJECT_INVALID',
  'BPF_LOAD_FAILED',
  'BPF_ATTACH_FAILED',
  'BPF_ATTACH_EXCLUSIVE',
  'MAP_NOT_FOUND',
  'MAP_NOT_READABLE',
  'PROGRAM_NOT_FOUND',
  // Acceleration
  'ACCELERATION_ALREADY_ON',
  'ACCELERATION_NOT_FOUND',
  'ACCELERATION_OVERLAPS',
  'ACCELERATION_HELD',
  'KEPT_UNREADABLE',
  'PROFILE_INVALID',
  'LIMITS_NOT_ACCEPTED',
  // The lab
  'LAB_EXISTS',
  'LAB_NOT_FOUND',
  'LAB_FAILED',
  // Input and the program itself
  'INPUT_INVALID',
  'RULES_INVALID',
  'SNAPSHOT_INVALID',
  'SNAPSHOT_INCOMPLETE',
  'METHOD_UNKNOWN',
  'NOT_SUPPORTED',
  'LIMIT_EXCEEDED',
  'CANCELLED',
  'TIMED_OUT',
  'INTERNAL',
] as const;

/** One of them. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** An error as it travels in JSON. */
export interface WireError {
  readonly code: ErrorCode;
  /** What happened, one sentence. */
  readonly message: string;
  /** Why it happened: what was found, the kernel's or the server's own words. */
  readonly reason: string;
  /** What the person can do now: a command to run, a setting to change. */
  readonly remedy: string;
}

/** What every MeshpathError carries. Registered, so that bundles with a class of their own each know the others' errors. */
const BRAND = Symbol.for('meshpath.error');

/** The one error class of Meshpath. `instanceof` holds between bundles of one process too. */
export class MeshpathError extends Error implements WireError {
  readonly [BRAND] = true;
  readonly code: ErrorCode;
  readonly reason: string;
  readonly remedy: string;

  constructor(error: WireError, options?: ErrorOptions) {
    super(error.message, options);
    this.name = 'MeshpathError';
    this.code = error.code;
    this.reason = error.reason;
    this.remedy = error.remedy;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === 'object' && value !== null && BRAND in value;
  }

  /** Says whether `error` is a MeshpathError, and one of this code where one is given. */
  static is(error: unknown, code?: ErrorCode): error is MeshpathError {
    return error instanceof MeshpathError && (code === undefined || error.code === code);
  }

  /** Gives the error as plain JSON. */
  toJSON(): WireError {
    return { code: this.code, message: this.message, reason: this.reason, remedy: this.remedy };
  }
}

/**
 * Reads an error that came from outside as JSON; undefined where it is not one. A code that this version does not know,
 * of a newer agent, becomes INTERNAL.
 */
export function parseWireError(value: unknown): WireError | undefined {
  if (typeof value !== 'object' || value === null) {
    return undefined;
  }
  const { code, message, reason, remedy } = value as Partial<Record<keyof WireError, unknown>>;
  if (typeof code !== 'string' || typeof message !== 'string' || typeof reason !== 'string' || typeof remedy !== 'string') {
    return undefined;
  }
  return { code: ERROR_CODES.find((known) => known === code) ?? 'INTERNAL', message, reason, remedy };
}

/** Gives any thrown value as a MeshpathError; what is not one already becomes INTERNAL and keeps its cause. */
export function toMeshpathError(thrown: unknown): MeshpathError {
  if (thrown instanceof MeshpathError) {
    return thrown;
  }
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  return new MeshpathError(
    {
      code: 'INTERNAL',
      message: 'Meshpath met an error that it did not expect.',
      reason,
      remedy: 'Open the Meshpath output channel (or run with --verbose) and report what it shows.',
    },
    { cause: thrown },
  );
}

/** The error for something that the caller gave up waiting for. */
export function cancelledError(what: string): MeshpathError {
  return new MeshpathError({
    code: 'CANCELLED',
    message: `${what} was cancelled.`,
    reason: 'It was cancelled before it was complete.',
    remedy: 'Start it again when you want it; nothing was left behind.',
  });
}

/** The error for input that is not what was asked for. */
export function inputError(message: string, reason: string, remedy: string): MeshpathError {
  return new MeshpathError({ code: 'INPUT_INVALID', message, reason, remedy });
}
