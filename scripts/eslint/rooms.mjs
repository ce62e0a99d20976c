/**
 * The rooms of the house and the one-way arrows between them. A file belongs to the room with the longest folder that holds it.
 *
 * `imports`: folders of this project it may import from. `packages`: npm packages (and `vscode`) it may import. `builtins`: whether
 * it may import Node.js modules.
 * @typedef {{ folder: string, imports: readonly string[], packages: readonly string[], builtins: boolean }} Room
 */

/** @type {readonly Room[]} */
export const rooms = [
  { folder: 'agent/protocol', imports: ['agent/protocol'], packages: [], builtins: false },
  { folder: 'agent', imports: ['agent'], packages: ['vscode-jsonrpc'], builtins: true },
  { folder: 'agent/libbpf', imports: ['agent'], packages: ['koffi'], builtins: true },
  { folder: 'simulator', imports: ['simulator', 'agent/protocol'], packages: [], builtins: false },
  { folder: 'extension', imports: ['extension', 'agent/protocol', 'simulator'], packages: ['vscode', 'vscode-jsonrpc'], builtins: true },
  { folder: 'extension/ssh', imports: ['extension/ssh', 'agent/protocol'], packages: ['ssh-config', 'ssh2'], builtins: true },
  {
    folder: 'extension/node',
    imports: ['extension/node', 'extension/ssh', 'agent/protocol', 'simulator'],
    packages: ['vscode-jsonrpc'],
    builtins: true,
  },
  { folder: 'extension/webviews/app', imports: ['extension/webviews', 'agent/protocol', 'simulator'], packages: [], builtins: false },
  {
    folder: 'extension/webviews/app/toolkit.ts',
    imports: ['extension/webviews'],
    packages: ['@vscode/webview-ui-toolkit'],
    builtins: false,
  },
  { folder: 'cli', imports: ['cli', 'agent', 'simulator'], packages: ['vscode-jsonrpc'], builtins: true },
];

/** What a room's tests may import on top of what the room may. */
const testRoom = { imports: ['test'], packages: ['fast-check', 'ssh2'], builtins: true };

/**
 * Gives the room of a file, or undefined where everything is allowed (test/, scripts/, configuration).
 * @param {string} file path relative to the project, with slashes
 * @returns {Room | undefined}
 */
export function roomOf(file) {
  const room = rooms
    .filter(({ folder }) => file === folder || file.startsWith(`${folder}/`))
    .sort((a, b) => b.folder.length - a.folder.length)[0];
  if (room === undefined || !/\.test\.m?ts$/.test(file)) {
    return room;
  }
  return {
    folder: room.folder,
    imports: [...room.imports, ...testRoom.imports],
    packages: [...room.packages, ...testRoom.packages],
    builtins: true,
  };
}
