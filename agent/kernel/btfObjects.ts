import { MeshpathError } from '../protocol/errors.ts';
import { parseBtf } from '../protocol/btf.ts';
import type { Btf } from '../protocol/btf.ts';
import { withDescriptor } from '../libbpf/introspection.ts';
import type { Introspection } from '../libbpf/introspection.ts';

/** Gives BTF objects by id; those used last are kept. The kernel counts ids up, so that an id stays with its object. */
export interface BtfObjects {
  /** Undefined where the object is gone, is 0, or cannot be parsed. */
  readonly get: (id: number) => Btf | undefined;
}

const MAX_KEPT = 256;

/** Reads BTF objects from the kernel when they are first asked for. */
export function createBtfObjects(introspection: Introspection): BtfObjects {
  const kept = new Map<number, Btf>();
  const read = (id: number): Btf | undefined => {
    const fd = introspection.open('btf', id);
    if (fd === undefined) {
      return undefined;
    }
    try {
      return parseBtf(withDescriptor(fd, introspection.btfBytes));
    } catch (error) {
      // Without its BTF an object is shown by its bytes and its short name; that is all that is lost.
      if (MeshpathError.is(error, 'BPF_OBJECT_INVALID') || MeshpathError.is(error, 'LIMIT_EXCEEDED')) {
        return undefined;
      }
      throw error;
    }
  };
  return {
    get: (id) => {
      if (id === 0) {
        return undefined;
      }
      const btf = kept.get(id) ?? read(id);
      if (btf === undefined) {
        return undefined;
      }
      kept.delete(id);
      kept.set(id, btf);
      for (const oldest of kept.keys()) {
        if (kept.size <= MAX_KEPT) {
          break;
        }
        kept.delete(oldest);
      }
      return btf;
    },
  };
}
