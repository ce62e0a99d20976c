/**
 * Reports node:test events to scripts/test.mjs: one JSON line a test; suites and files are no tests. What tests print is shown as it comes.
 * Node.js loads a reporter through its default export.
 * @param {AsyncIterable<{ type: string, data: any }>} source
 */
export default async function* report(source) {
  for await (const { type, data } of source) {
    if (type === 'test:stdout' || type === 'test:stderr') {
      yield `${data.message.replace(/\n$/, '')}\n`;
    }
    const skipReason = data.skip ?? data.todo;
    const skipped = skipReason !== undefined && skipReason !== false;
    if ((type !== 'test:pass' && type !== 'test:fail') || (!skipped && isContainer(type, data))) {
      continue;
    }
    const test = {
      name: data.name,
      outcome: skipped ? 'skipped' : type === 'test:pass' ? 'passed' : 'failed',
      ...(skipped && { reason: typeof skipReason === 'string' && skipReason !== '' ? skipReason : 'no reason given' }),
      ...(type === 'test:fail' && !skipped && { reason: describe(data.details?.error) }),
      file: data.file,
      milliseconds: data.details?.duration_ms ?? 0,
    };
    yield `${JSON.stringify({ meshpathTest: test })}\n`;
  }
}

/**
 * Suites, and files that only hold tests, are not counted; a file that failed by itself (it does not load, it hangs) is.
 * @param {string} type
 * @param {any} data
 */
function isContainer(type, data) {
  if (data.details?.type === 'suite') {
    return type === 'test:pass' || data.details?.error?.failureType === 'subtestsFailed';
  }
  const isFile = data.nesting === 0 && (data.name === data.file || /\.test\.m?ts$/.test(data.name));
  return (isFile && type === 'test:pass') || data.details?.error?.failureType === 'subtestsFailed';
}

/** @param {any} error what node:test gives: an Error whose cause is the one thrown */
function describe(error) {
  const cause = error?.cause ?? error;
  // What a MeshpathError says besides its message.
  const more = [cause?.code, cause?.reason].filter((text) => typeof text === 'string');
  return [cause?.stack ?? String(cause ?? 'failed'), ...more].join('\n');
}
