import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { isIpv4, toIpAddress } from '../../protocol/ipAddress.ts';
import type { Endpoint } from '../../protocol/scalars.ts';
import { readLocalEndpoint, readOriginalDestination, readPeerEndpoint } from '../../libbpf/socketQuestions.ts';
import { errorName, tellEvent } from './program.ts';
import type { CommandHandlers } from './program.ts';
import { relay } from './relay.ts';
import type { EndedProxying, ProxiedConnection, ProxyParams } from './reports.ts';

/**
 * The sidecar of a lab: a transparent proxy as Envoy is one under Istio. It asks for the original destination of every
 * connection and connects on to it: outbound as it is, inbound from the passthrough source. Resolves once it listens.
 */
export async function proxyConnections(params: ProxyParams): Promise<CommandHandlers> {
  let count = 0;
  const accept = (listener: ProxiedConnection['listener'], downstream: Socket): void => {
    const connection = count++;
    const report = describeConnection(connection, listener, downstream);
    tellEvent('accepted', report);
    proxy(report, downstream, listener === 'inbound' ? { sources: [params.passthroughSource, params.passthroughSourceV6], host: params.applicationAddress } : {});
  };
  await Promise.all([
    listen(params.listenAddress, params.outboundPort, (socket) => {
      accept('outbound', socket);
    }),
    listen(params.listenAddress, params.inboundPort, (socket) => {
      accept('inbound', socket);
    }),
  ]);
  return {};
}

async function listen(address: string, port: number, accept: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, accept);
  server.listen(port, address);
  await once(server, 'listening');
  return server;
}

function describeConnection(connection: number, listener: ProxiedConnection['listener'], socket: Socket): ProxiedConnection {
  const report = { connection, listener, peer: readPeerEndpoint(socket), local: readLocalEndpoint(socket) };
  try {
    return { ...report, originalDestination: readOriginalDestination(socket), originalDestinationError: null };
  } catch (error) {
    return { ...report, originalDestination: null, originalDestinationError: errorName(error as Error) };
  }
}

function proxy(report: ProxiedConnection, downstream: Socket, { sources, host }: { readonly sources?: readonly [ipv4: string, ipv6: string]; readonly host?: string | null }): void {
  const destination = report.originalDestination;
  if (destination === null || equalEndpoints(destination, report.local)) {
    // To connect on would mean to connect to oneself, for ever.
    tellEnd(report.connection, 0, 0, 'NO_DESTINATION');
    downstream.on('error', () => undefined);
    downstream.resetAndDestroy();
    return;
  }
  relay(downstream, {
    destination: { address: toIpAddress(host ?? destination.address), port: destination.port },
    source: sources?.[isIpv4(destination.address) ? 0 : 1] ?? null,
    onEnded: (bytesToUpstream, bytesToDownstream, error) => {
      tellEnd(report.connection, bytesToUpstream, bytesToDownstream, error);
    },
  });
}

function tellEnd(connection: number, bytesToUpstream: number, bytesToDownstream: number, error: string | null): void {
  const ended: EndedProxying = { connection, bytesToUpstream, bytesToDownstream, error };
  tellEvent('ended', ended);
}

function equalEndpoints(left: Endpoint, right: Endpoint): boolean {
  return left.address === right.address && left.port === right.port;
}
