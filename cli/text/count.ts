/** Gives a number with the word for what is counted: `1 map`, `3 maps`. */
export function formatCount(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}
