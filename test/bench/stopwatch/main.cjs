const { appendFileSync } = require('node:fs');
const Module = require('node:module');

/**
 * Times loading and activating the extensions whose main files MESHPATH_STOPWATCH_MAINS names, and appends one JSON line each to the
 * file MESHPATH_STOPWATCH_REPORT. VS Code itself tells whole milliseconds only, and these are few.
 */
exports.activate = () => {
  const mains = JSON.parse(process.env['MESHPATH_STOPWATCH_MAINS'] ?? '[]');
  const report = process.env['MESHPATH_STOPWATCH_REPORT'] ?? '';
  /** @type {{ _load: (request: string, parent: unknown, isMain: boolean) => any }} */
  const loader = /** @type {any} */ (Module);
  const load = loader._load;
  loader._load = (request, parent, isMain) => {
    if (!mains.includes(request)) {
      return load(request, parent, isMain);
    }
    const started = performance.now();
    const extension = load(request, parent, isMain);
    const loading = performance.now() - started;
    return {
      ...extension,
      activate: async (/** @type {unknown} */ context) => {
        const called = performance.now();
        const result = await extension.activate(context);
        const milliseconds = loading + performance.now() - called;
        appendFileSync(report, `${JSON.stringify({ main: request, milliseconds })}\n`);
        return result;
      },
    };
  };
};
