import { readFileSync } from 'node:fs';
import { asExpected, limitation } from './selfTest.ts';
import type { SelfTest } from './selfTest.ts';

const MESSAGE = 'before any key';
const IPPROTO_TCP = 6;
const TCP_ULP = 31;
const AVAILABLE_PATH = '/proc/sys/net/ipv4/tcp_available_ulp';
/** Read before this process enters a namespace of its own, where the file does not exist. */
const AVAILABLE = readAvailable();

/**
 * Whether an accelerated socket can be given to TLS in the kernel (setsockopt TCP_ULP). Where the kernel has no `tls` ready, nothing is
 * tried: asking would load the module.
 */
export const kernelTlsTest: SelfTest = {
  id: 'ktls',
  needsRedirection: false,
  run: (pair) => {
    if (!AVAILABLE.includes('tls')) {
      return asExpected('The kernel has no TLS of its own loaded, so that no program uses it.');
    }
    pair.enrolAccepting();
    const name = Buffer.from('tls');
    const result = pair.calls.setsockopt(pair.connecting, IPPROTO_TCP, TCP_ULP, name, name.length);
    pair.send(pair.connecting, MESSAGE);
    const received = pair.receiveAll(pair.accepting, MESSAGE.length);
    const found = `An accelerated socket was ${result === 0 ? '' : `not (errno ${-result}) `}given to TLS in the kernel, and '${received}' of '${MESSAGE}' arrived over it.`;
    return result === 0 && received === MESSAGE
      ? asExpected(found)
      : limitation(
          found,
          'Programs that have the kernel encrypt (kTLS: nginx with ssl_conf_command Options KTLS, few others) cannot on accelerated connections.',
          'A socket in a sockhash has the protocol of sockmap in the place where TLS would be.',
          'Turn kTLS off in them, or do not accelerate their pods: sidecars encrypt themselves and do not need it.',
        );
  },
};

function readAvailable(): readonly string[] {
  try {
    return readFileSync(AVAILABLE_PATH, 'latin1').trim().split(/\s+/);
  } catch (error) {
    // Kernels without upper layer protocols have no such file.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  }
}
