import type { OptionValues } from './meshOptions.ts';
import type { MeshTool } from './meshTool.ts';

/** Reads options as the tools do, for tests: `-b 80,90 --redirect-dns --ipv6=false`. No value holds a space. */
export function readOptionWords(tool: MeshTool, text: string): OptionValues {
  const words = text.split(' ').filter((word) => word !== '');
  const given = new Map<string, string[]>();
  while (words.length > 0) {
    const [word = '', attached] = (words.shift() ?? '').split('=');
    const option = tool.options.find(({ name, short }) => word === `--${name}` || (short !== undefined && word === `-${short}`));
    const value = attached ?? (option?.type === 'boolean' ? 'true' : words.shift());
    if (option === undefined || value === undefined) {
      throw new RangeError(`${tool.name} has no option ${word}, or it has no value`);
    }
    given.set(option.name, [...(given.get(option.name) ?? []), value]);
  }
  return {
    flag: (name) => given.get(name)?.at(-1) === 'true',
    text: (name) => given.get(name)?.at(-1),
    texts: (name) => given.get(name) ?? [],
  };
}
