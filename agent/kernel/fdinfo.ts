/** The ids of BPF objects and the accounting that /proc/PID/fdinfo/FD shows (kernel/bpf/syscall.c, *_show_fdinfo). */
export interface BpfFdinfo {
  /** What the descriptor is; `link` lines also name the program of the link, which it does not hold itself. */
  readonly kind: 'program' | 'map' | 'link';
  readonly id: number;
  readonly memoryBytes: number | null;
  readonly frozen: boolean;
}

/** Parses the fdinfo of a descriptor; undefined where it is no BPF program, map or link. */
export function parseBpfFdinfo(text: string): BpfFdinfo | undefined {
  const fields = new Map<string, string>();
  for (const line of text.split('\n', 64)) {
    const colon = line.indexOf(':');
    if (colon > 0) {
      fields.set(line.slice(0, colon), line.slice(colon + 1).trim());
    }
  }
  const number = (name: string): number | undefined => {
    const value = fields.get(name);
    return value !== undefined && /^\d{1,15}$/.test(value) ? Number(value) : undefined;
  };
  const link = number('link_id');
  const map = number('map_id');
  // A link on a sockmap shows a map_id too, and every link a prog_id: the order of these tests matters.
  const kind = link !== undefined ? 'link' : fields.has('map_type') ? 'map' : 'program';
  const id = kind === 'link' ? link : kind === 'map' ? map : number('prog_id');
  return id === undefined ? undefined : { kind, id, memoryBytes: number('memlock') ?? null, frozen: fields.get('frozen') === '1' };
}
