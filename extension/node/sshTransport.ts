import type { SshConnection } from '../ssh/connection.ts';
import type { Transport } from './transport.ts';

/** Gives an SSH connection as a transport; closing it closes the connection. */
export function createSshTransport(connection: SshConnection): Transport {
  return {
    closed: connection.closed,
    close: async () => connection.close(),
    start: async (command) => connection.start(command),
  };
}
