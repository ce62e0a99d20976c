import { isBuiltin } from 'node:module';
import { dirname, join, relative, sep } from 'node:path';
import { root } from '../paths.mjs';
import { roomOf } from './rooms.mjs';

/**
 * The lint rule that keeps the arrows between the rooms one-way (see rooms.mjs): imports, re-exports, dynamic imports, require calls
 * and import types.
 * @type {import('eslint').Rule.RuleModule}
 */
export const arrowsRule = {
  meta: {
    type: 'problem',
    schema: [],
    docs: { description: 'Keep imports to what the room of a file may import' },
    messages: { forbidden: '{{ room }} must not import {{ imported }}' },
  },
  create(context) {
    const file = relative(root, context.filename).split(sep).join('/');
    const room = roomOf(file);
    if (room === undefined) {
      return {};
    }
    /** @param {any} source the node of the module's name */
    const check = (source) => {
      const specifier = source?.value;
      if (typeof specifier !== 'string') {
        return;
      }
      if (!isAllowed(room, file, specifier)) {
        context.report({ node: source, messageId: 'forbidden', data: { room: room.folder, imported: specifier } });
      }
    };
    return {
      ImportDeclaration: (node) => {
        check(node.source);
      },
      ExportNamedDeclaration: (node) => {
        check(node.source);
      },
      ExportAllDeclaration: (node) => {
        check(node.source);
      },
      ImportExpression: (node) => {
        check(node.source);
      },
      CallExpression: (node) => {
        if (node.callee.type === 'Identifier' && node.callee.name === 'require') {
          check(node.arguments[0]);
        }
      },
      TSImportType: (/** @type {any} */ node) => {
        check(node.source ?? node.argument?.literal);
      },
    };
  },
};

/**
 * @param {import('./rooms.mjs').Room} room
 * @param {string} file path relative to the project
 * @param {string} specifier
 */
function isAllowed(room, file, specifier) {
  if (specifier.startsWith('.')) {
    const target = join(dirname(file), specifier).split(sep).join('/');
    return room.imports.some((folder) => target === folder || target.startsWith(`${folder}/`));
  }
  if (isBuiltin(specifier)) {
    return room.builtins;
  }
  return room.packages.some((name) => specifier === name || specifier.startsWith(`${name}/`));
}
