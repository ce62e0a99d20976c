import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { DATAPATH_PROGRAMS, encodeProfileEntries, encodeSettings } from '../protocol/datapath.ts';
import type { DatapathSettings } from '../protocol/datapath.ts';
import { MeshpathError } from '../protocol/errors.ts';
import { ATTACH_TYPE, loadBpfObject } from '../libbpf/bpfObject.ts';
import type { BpfObject } from '../libbpf/bpfObject.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { updateElement } from '../libbpf/maps.ts';

/** Meshpath's programs as they are in the kernel, with the lists of their profile, attached to nothing but their own sockhash. */
export interface LoadedDatapath {
  readonly object: BpfObject;
  /** The link of sk_msg on the sockhash; null where the kernel has no such links. */
  readonly messageLinkFd: number | null;
  /** Closes all descriptors. */
  readonly close: () => void;
}

const OBJECT_NAME = 'meshpath';

/**
 * Loads the programs as this kernel can take them: before Linux 5.15 sockops programs cannot ask for the namespace, and
 * connections are then known by their handshakes alone. Throws BPF_OBJECT_INVALID, BPF_LOAD_FAILED, BPF_ATTACH_FAILED, CAPABILITY_MISSING.
 */
export function loadDatapath(libbpf: Libbpf, bytes: Uint8Array, settings: Omit<DatapathSettings, 'hasNetnsCookie'>): LoadedDatapath {
  const load = (hasNetnsCookie: boolean): BpfObject =>
    loadBpfObject(libbpf, bytes, { name: OBJECT_NAME, readOnlyData: (initial, btf) => encodeSettings(btf, initial, { ...settings, hasNetnsCookie }) });
  const object = loadForKernel(load);
  try {
    for (const { map, key, value } of encodeProfileEntries(object.btf, settings.profile)) {
      updateElement(libbpf, object.mapFd(map), key, value);
    }
    // Sockets take the program over as they come into the sockhash: it has to be there first.
    const messageLinkFd = attachMessages(libbpf, object);
    return {
      object,
      messageLinkFd,
      close: () => {
        if (messageLinkFd !== null) {
          closeSync(messageLinkFd);
        }
        object.close();
      },
    };
  } catch (error) {
    object.close();
    throw error;
  }
}

function loadForKernel(load: (hasNetnsCookie: boolean) => BpfObject): BpfObject {
  try {
    return load(true);
  } catch (error) {
    if (MeshpathError.is(error, 'BPF_LOAD_FAILED')) {
      return load(false);
    }
    throw error;
  }
}

/** Attaches sk_msg to the sockhash by a link and gives its descriptor; null before Linux 6.10, which has no such links. */
function attachMessages({ functions, describe }: Libbpf, object: BpfObject): number | null {
  const program = object.programFd(DATAPATH_PROGRAMS.message);
  const sockets = object.mapFd('sockets');
  const link = functions.bpf_link_create(program, sockets, ATTACH_TYPE.skMsgVerdict, null);
  if (link >= 0) {
    return link;
  }
  // The kernel drops such an attachment with the last descriptor of the map (sock_hash_release_progs).
  const result = link === -constants.errno.EINVAL ? functions.bpf_prog_attach(program, sockets, ATTACH_TYPE.skMsgVerdict, 0) : link;
  if (result < 0) {
    throw new MeshpathError({
      code: 'BPF_ATTACH_FAILED',
      message: 'The kernel refused to attach a program.',
      reason: `Attaching ${DATAPATH_PROGRAMS.message} to its sockhash failed with ${describe(-result)}.`,
      remedy: 'Check that the kernel has CONFIG_BPF_STREAM_PARSER.',
    });
  }
  return null;
}
