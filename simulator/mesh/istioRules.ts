import type { MeshProfile } from '../../agent/protocol/acceleration.ts';
import { ISTIO_PROFILE } from '../../agent/protocol/acceleration.ts';
import type { PortNumber } from '../../agent/protocol/scalars.ts';
import type { AddressPrefix } from '../netfilter/addressPrefix.ts';
import { formatAddressPrefix } from '../netfilter/addressPrefix.ts';
import { readRuleSet } from '../netfilter/readRuleSet.ts';
import { writeRuleSet } from '../netfilter/writeRuleSet.ts';

/** What istio-iptables is told, in its mode REDIRECT without DNS capture. */
export interface IstioOptions {
  readonly profile: MeshProfile;
  /** `-b`: ports that are captured on the way in; `*` for all but the profile's excluded ones. */
  readonly inboundPorts: '*' | readonly PortNumber[];
  /** `-i`: destinations that are captured on the way out. */
  readonly outboundRanges: '*' | readonly AddressPrefix[];
  /** `-x`: destinations that are not. */
  readonly excludedOutboundRanges: readonly AddressPrefix[];
  /** `-q`: ports that are captured whatever the destination. */
  readonly outboundPorts: readonly PortNumber[];
}

/** What an injected sidecar is started with by default. */
export const ISTIO_DEFAULTS: IstioOptions = { profile: ISTIO_PROFILE, inboundPorts: '*', outboundRanges: '*', excludedOutboundRanges: [], outboundPorts: [] };

/** HBONE, Istio's inbound tunnel port: never captured. */
const TUNNEL_PORT = 15_008;

/**
 * Gives the IPv4 rules that istio-iptables installs for a sidecar, in the form of iptables-save
 * (istio/istio, tools/istio-iptables/pkg/capture/run.go).
 */
export function generateIstioRules(options: IstioOptions): string {
  const { nat } = new IstioRuleList(options);
  const text = ['*nat', ...nat.chains.map((chain) => `:${chain} - [0:0]`), ...nat.rules, 'COMMIT'].join('\n');
  const declared = '*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n';
  return writeRuleSet(readRuleSet(text.replace('*nat\n', declared)), { counters: false });
}

class IstioRuleList {
  readonly nat = { chains: ['ISTIO_INBOUND', 'ISTIO_IN_REDIRECT', 'ISTIO_OUTPUT', 'ISTIO_REDIRECT'], rules: [] as string[] };

  constructor(options: IstioOptions) {
    const { profile } = options;
    this.#add('ISTIO_INBOUND', `-p tcp --dport ${TUNNEL_PORT} -j RETURN`);
    this.#add('ISTIO_REDIRECT', `-p tcp -j REDIRECT --to-ports ${profile.outboundPort}`);
    this.#add('ISTIO_IN_REDIRECT', `-p tcp -j REDIRECT --to-ports ${profile.inboundPort}`);
    this.#addInbound(options);
    this.#add('OUTPUT', '-j ISTIO_OUTPUT');
    for (const port of profile.excludedOutboundPorts) {
      this.#add('ISTIO_OUTPUT', `-p tcp --dport ${port} -j RETURN`);
      this.#add('ISTIO_OUTPUT', `-p udp --dport ${port} -j RETURN`);
    }
    if (profile.passthroughSource !== null) {
      this.#add('ISTIO_OUTPUT', `-o lo -s ${profile.passthroughSource}/32 -j RETURN`);
    }
    this.#addOwner(`--uid-owner ${profile.proxyUid}`);
    this.#addOwner(`--gid-owner ${profile.proxyGid}`);
    this.#add('ISTIO_OUTPUT', '-d 127.0.0.1/32 -j RETURN');
    this.#addOutbound(options);
  }

  #addInbound({ inboundPorts, profile }: IstioOptions): void {
    if (inboundPorts !== '*' && inboundPorts.length === 0) {
      return;
    }
    this.#add('PREROUTING', '-p tcp -j ISTIO_INBOUND');
    if (inboundPorts !== '*') {
      for (const port of inboundPorts) {
        this.#add('ISTIO_INBOUND', `-p tcp --dport ${port} -j ISTIO_IN_REDIRECT`);
      }
      return;
    }
    for (const port of profile.excludedInboundPorts) {
      // The rule for the tunnel port comes first in any case.
      if (port !== TUNNEL_PORT) {
        this.#add('ISTIO_INBOUND', `-p tcp --dport ${port} -j RETURN`);
      }
    }
    this.#add('ISTIO_INBOUND', '-p tcp -j ISTIO_IN_REDIRECT');
  }

  /** What the sidecar itself sends: to its own pod through the inbound side, all else as it is. */
  #addOwner(owner: string): void {
    this.#add('ISTIO_OUTPUT', `-o lo ! -d 127.0.0.1/32 -p tcp ! --dport ${TUNNEL_PORT} -m owner ${owner} -j ISTIO_IN_REDIRECT`);
    this.#add('ISTIO_OUTPUT', `-o lo -m owner ! ${owner} -j RETURN`);
    this.#add('ISTIO_OUTPUT', `-m owner ${owner} -j RETURN`);
  }

  #addOutbound({ outboundRanges, excludedOutboundRanges, outboundPorts }: IstioOptions): void {
    for (const range of excludedOutboundRanges) {
      this.#add('ISTIO_OUTPUT', `-d ${formatAddressPrefix(range)} -j RETURN`);
    }
    for (const port of outboundPorts) {
      this.#add('ISTIO_OUTPUT', `-p tcp --dport ${port} -j ISTIO_REDIRECT`);
    }
    if (outboundRanges === '*') {
      this.#add('ISTIO_OUTPUT', '-j ISTIO_REDIRECT');
      return;
    }
    for (const range of outboundRanges) {
      this.#add('ISTIO_OUTPUT', `-d ${formatAddressPrefix(range)} -j ISTIO_REDIRECT`);
    }
  }

  #add(chain: string, rule: string): void {
    this.nat.rules.push(`-A ${chain} ${rule}`);
  }
}
