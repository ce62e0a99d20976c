import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { DATAPATH_PROGRAMS, encodeProfileEntries, encodeSettings } from '../protocol/datapath.ts';
import type { DatapathSettings } from '../protocol/datapath.ts';
import { parseBtf } from '../protocol/btf.ts';
import type { Btf } from '../protocol/btf.ts';
import { MeshpathError } from '../protocol/errors.ts';
import { ATTACH_TYPE, loadBpfObject } from '../libbpf/bpfObject.ts';
import type { BpfObject } from '../libbpf/bpfObject.ts';
import { createIntrospection, withDescriptor } from '../libbpf/introspection.ts';
import type { Libbpf } from '../libbpf/library.ts';
import { updateElement } from '../libbpf/maps.ts';
import type { KeptSet } from './keptSet.ts';

/** Meshpath's programs as they are in the kernel, with the lists of their profile, attached to nothing but their own sockhash. */
export interface LoadedDatapath {
  readonly object: BpfObject;
  /** The link of sk_msg on the sockhash; null where the kernel has no such links. */
  readonly messageLinkFd: number | null;
  /** Closes all descriptors. */
  readonly close: () => void;
}

const OBJECT_NAME = 'meshpath';
/** Of the link of sk_msg. */
const MESSAGE_PIN = 'message';

/**
 * Loads the programs as this kernel can take them: before Linux 5.15 sockops programs cannot ask for the namespace, and
 * connections are then known by their handshakes alone. Throws BPF_OBJECT_INVALID, BPF_LOAD_FAILED, BPF_ATTACH_FAILED, CAPABILITY_MISSING.
 */
export function loadDatapath(
  libbpf: Libbpf,
  bytes: Uint8Array,
  settings: Omit<DatapathSettings, 'hasNetnsCookie'>,
  reusedMaps?: (btf: Btf) => ReadonlyMap<string, number>,
): LoadedDatapath {
  const load = (hasNetnsCookie: boolean): BpfObject =>
    loadBpfObject(libbpf, bytes, { name: OBJECT_NAME, reusedMaps, readOnlyData: (initial, btf) => encodeSettings(btf, initial, { ...settings, hasNetnsCookie }) });
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

/** Pins the programs, the maps and the link of sk_msg. Throws BPFFS_MISSING. */
export function pinDatapath({ object, messageLinkFd }: LoadedDatapath, set: KeptSet): void {
  for (const name of object.mapNames) {
    set.pin(object.mapFd(name), 'maps', pinName(name));
  }
  for (const name of object.programNames) {
    set.pin(object.programFd(name), 'programs', name);
  }
  if (messageLinkFd !== null) {
    set.pin(messageLinkFd, MESSAGE_PIN);
  }
}

/** Opens what another agent has pinned, of whatever version. Throws KEPT_UNREADABLE. */
export function openPinnedDatapath(libbpf: Libbpf, set: KeptSet): LoadedDatapath {
  const opened: number[] = [];
  const open = (...path: readonly string[]): number => {
    const fd = set.openPin(...path);
    opened.push(fd);
    return fd;
  };
  const closeAll = (): void => {
    opened.splice(0).forEach((fd) => {
      closeSync(fd);
    });
  };
  try {
    const programs = new Map(set.list('programs').map((name) => [name, open('programs', name)]));
    const maps = new Map(set.list('maps').map((name) => [name, open('maps', name)]));
    const find = (descriptors: ReadonlyMap<string, number>, name: string): number => descriptors.get(name) ?? open('programs', name);
    return {
      messageLinkFd: set.has(MESSAGE_PIN) ? open(MESSAGE_PIN) : null,
      close: closeAll,
      object: {
        btf: readProgramBtf(libbpf, find(programs, DATAPATH_PROGRAMS.sockops)),
        programFd: (name) => find(programs, name),
        mapFd: (name) => maps.get(pinName(name)) ?? open('maps', pinName(name)),
        programNames: [...programs.keys()],
        mapNames: [...maps.keys()],
        close: closeAll,
      },
    };
  } catch (error) {
    closeAll();
    throw error;
  }
}

/** bpffs takes no dots. */
function pinName(name: string): string {
  return name.replaceAll('.', '_');
}

function readProgramBtf(libbpf: Libbpf, programFd: number): Btf {
  const introspection = createIntrospection(libbpf);
  const btfFd = introspection.open('btf', introspection.programInfo(programFd).btfId);
  if (btfFd === undefined) {
    throw new MeshpathError({
      code: 'KEPT_UNREADABLE',
      message: 'What is kept of acceleration on this node cannot be taken over.',
      reason: 'The kernel has no type information (BTF) of its programs.',
      remedy: 'Remove it with `meshpath clean` (in VS Code: Meshpath: Clean Up Node).',
    });
  }
  return withDescriptor(btfFd, (fd) => parseBtf(introspection.btfBytes(fd)));
}
