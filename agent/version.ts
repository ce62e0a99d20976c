/** The version of Meshpath that this agent belongs to; a test holds it to package.json. */
export const AGENT_VERSION = '0.1.0';
