import { randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

/**
 * Serves one secret address on a loopback port that signs a browser in to a code-server with a password: it fetches the session's
 * cookie and sends the browser on with it (a cookie belongs to a host, whatever the port). So one click opens the workbench, while
 * other users of this machine, who know neither the address nor the password, cannot.
 * @param {string} serverUrl
 * @param {string} password
 * @param {string} path where to go then, such as /?folder=/home/me
 * @returns {Promise<string>} the secret address; it works until this process ends
 */
export async function serveSignInLink(serverUrl, password, path) {
  const token = randomBytes(24).toString('base64url');
  const server = createServer((request, response) => {
    if (!isSame(request.url ?? '', `/${token}`)) {
      response.writeHead(404).end('Not found\n');
      return;
    }
    signIn(serverUrl, password).then(
      (cookie) => {
        response.writeHead(302, { 'set-cookie': cookie, location: `${serverUrl}${path}`, 'cache-control': 'no-store' }).end();
      },
      (/** @type {unknown} */ error) => {
        response.writeHead(502, { 'content-type': 'text/plain' }).end(`${String(error)}\n`);
      },
    );
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(undefined));
  });
  server.unref();
  const address = server.address();
  return `http://127.0.0.1:${String(typeof address === 'object' ? address?.port : address)}/${token}`;
}

/**
 * @param {string} serverUrl
 * @param {string} password
 * @returns {Promise<string[]>}
 */
async function signIn(serverUrl, password) {
  const response = await fetch(`${serverUrl}/login`, { method: 'POST', body: new URLSearchParams({ password }), redirect: 'manual' });
  const cookies = response.headers.getSetCookie();
  if (cookies.length === 0) {
    throw new Error(`code-server did not accept its password (${String(response.status)})`);
  }
  return cookies;
}

/**
 * @param {string} given
 * @param {string} wanted
 */
function isSame(given, wanted) {
  const a = Buffer.from(given);
  const b = Buffer.from(wanted);
  return a.length === b.length && timingSafeEqual(a, b);
}
