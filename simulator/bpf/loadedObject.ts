import { MeshpathError } from '../../agent/protocol/errors.ts';
import type { SourceLine } from '../../agent/protocol/trace.ts';
import { helpersFor } from './helpers.ts';
import type { HelperCall, RunState } from './helpers.ts';
import type { Context } from './contexts.ts';
import { runProgram } from './machine.ts';
import type { RunResult } from './machine.ts';
import { AddressSpace } from './memory.ts';
import { createMap } from './maps.ts';
import type { BpfMap } from './maps.ts';
import { lineOfInstruction } from './object.ts';
import type { BpfObject, MapDefinition, ProgramDefinition } from './object.ts';
import type { KernelSocket } from './sockets.ts';

/** An object whose maps exist in a simulated kernel, so that its programs can run. */
export interface LoadedObject {
  readonly object: BpfObject;
  /** In the order of the object's map definitions. */
  readonly maps: readonly BpfMap[];
}

/** What one run of a program did. */
export interface ProgramRun<Result> {
  readonly program: ProgramDefinition;
  readonly outcome: RunResult;
  /** What the program left in its context. */
  readonly result: Result;
  readonly calls: readonly HelperCall[];
  readonly redirect: KernelSocket | null;
  /** To how many bytes the verdict of an sk_msg program applies; 0: to the message. */
  readonly appliedBytes: number;
  /** The source lines that ran, in order, each repeated only where another came between. */
  readonly lines: readonly SourceLine[];
  /** The line that last wrote to the context; null where none did. */
  readonly contextWrite: SourceLine | null;
}

/** What of a run does not come from the program. */
export type RunSetting = Pick<RunState, 'kernel' | 'task' | 'attachedCgroupId' | 'cpu' | 'operation'>;

/**
 * Makes the maps of an object. `contents` replaces what data sections begin with, by section name (`.rodata`): what
 * libbpf lets its user set between open and load. Throws INPUT_INVALID where the length differs.
 */
export function loadObject(object: BpfObject, options: { readonly cpus: number; readonly contents: ReadonlyMap<string, Uint8Array> }): LoadedObject {
  return { object, maps: object.maps.map((definition) => createMap(withContents(definition, options.contents.get(definition.name)), options.cpus)) };
}

function withContents(definition: MapDefinition, contents: Uint8Array | undefined): MapDefinition {
  if (contents === undefined) {
    return definition;
  }
  if (contents.length !== definition.valueBytes) {
    throw new MeshpathError({
      code: 'INPUT_INVALID',
      message: `The contents for ${definition.name} do not fit.`,
      reason: `They have ${contents.length} bytes and the section has ${definition.valueBytes}.`,
      remedy: 'Give the contents for this very object.',
    });
  }
  return { ...definition, initial: contents.slice() };
}

/** Gives a map of a loaded object by its name. Throws BPF_OBJECT_INVALID where there is none. */
export function mapNamed(loaded: LoadedObject, name: string): BpfMap {
  const map = loaded.maps.find((candidate) => candidate.definition.name === name);
  if (map === undefined) {
    throw missingPart('map', name);
  }
  return map;
}

/** Gives a program of a loaded object by its name. Throws BPF_OBJECT_INVALID where there is none. */
export function programNamed(loaded: LoadedObject, name: string): ProgramDefinition {
  const program = loaded.object.programs.find((candidate) => candidate.name === name);
  if (program === undefined) {
    throw missingPart('program', name);
  }
  return program;
}

/**
 * Runs a program of a loaded object on a context. Maps and sockets change as the program changes them. Gives what it
 * did; a program that does what the verifier would refuse ends with a fault in `outcome`.
 */
export function runLoadedProgram<Result>(
  loaded: LoadedObject,
  program: ProgramDefinition,
  setting: RunSetting,
  makeContext: (memory: AddressSpace) => Context<Result>,
): ProgramRun<Result> {
  const memory = new AddressSpace();
  const context = makeContext(memory);
  const state: RunState = {
    ...setting,
    programType: program.type,
    context: context.pointer,
    socket: context.socket,
    instruction: 0,
    lines: [],
    calls: [],
    redirect: null,
    appliedBytes: 0,
  };
  const { lines } = state;
  let contextWrites = 0;
  let contextWrite: SourceLine | null = null;
  const noteContextWrite = (): void => {
    if (memory.contextWrites !== contextWrites) {
      contextWrites = memory.contextWrites;
      contextWrite = lineOfInstruction(program, state.instruction);
    }
  };
  const outcome = runProgram({
    instructions: program.instructions,
    memory,
    helpers: helpersFor(state),
    arguments: [context.pointer],
    resolveLoad: (kind, index, offset) => resolveLoad(loaded, memory, kind, index, offset),
    observe: (instruction) => {
      noteContextWrite();
      state.instruction = instruction;
      const line = lineOfInstruction(program, instruction);
      if (line !== null && line.line !== 0 && line !== lines.at(-1)) {
        lines.push(line);
      }
    },
  });
  noteContextWrite();
  return { program, outcome, result: context.read(), calls: state.calls, redirect: state.redirect, appliedBytes: state.appliedBytes, lines, contextWrite };
}

const NO_BYTES_KEY = new Uint8Array(4);

function resolveLoad(loaded: LoadedObject, memory: AddressSpace, kind: 'map' | 'map-value', index: number, offset: number): bigint | undefined {
  const map = loaded.maps[index];
  if (map === undefined) {
    return undefined;
  }
  if (kind === 'map') {
    return memory.map({ name: `the map ${map.definition.name}`, bytes: handleOf(map), meaning: { kind: 'map', map }, writable: [], written: null });
  }
  const value = map.kind === 'array' ? map.lookup(NO_BYTES_KEY) : undefined;
  if (value === undefined) {
    return undefined;
  }
  const readOnly = map.definition.name.startsWith('.rodata');
  const base = memory.map({ name: map.definition.name, bytes: value, meaning: { kind: 'map-value', map }, writable: readOnly ? [] : [[0, value.length]], written: null });
  return base + BigInt(offset);
}

/** A map itself has no bytes that a program may touch; the handle only gives it an address of its own. */
const handles = new WeakMap<BpfMap, Uint8Array>();

function handleOf(map: BpfMap): Uint8Array {
  const handle = handles.get(map) ?? new Uint8Array(0);
  handles.set(map, handle);
  return handle;
}

function missingPart(kind: string, name: string): MeshpathError {
  return new MeshpathError({
    code: 'BPF_OBJECT_INVALID',
    message: `The BPF object has no ${kind} named ${name}.`,
    reason: 'It is not the object that this version of Meshpath works with.',
    remedy: 'Build it again (npm run build) or install this version of Meshpath again.',
  });
}
