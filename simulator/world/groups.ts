import { toIpAddress } from '../../agent/protocol/ipAddress.ts';
import type { NetworkLink } from '../../agent/protocol/snapshot.ts';
import { Address } from '../netfilter/address.ts';
import type { WorldNamespace } from './world.ts';
import { readSysctl } from './world.ts';

/** Multicast groups that packets are taken for. */

const ALL_HOSTS = Address.of(toIpAddress('224.0.0.1'));
const ALL_NODES = Address.of(toIpAddress('ff02::1'));
const ALL_ROUTERS = Address.of(toIpAddress('ff02::2'));

/**
 * Says whether a namespace takes what is sent to a multicast group by a device. The kernel itself is in the group of all hosts, of
 * IPv6 also in those of its addresses (RFC 4291, 2.7.1) and, where it forwards, of all routers (net/ipv4/igmp.c, ip_mc_up;
 * net/ipv6/addrconf.c, addrconf_join_solict and dev_forward_change); programs join others. Null where that is not known.
 */
export function isInGroup(namespace: WorldNamespace, link: NetworkLink, group: Address): boolean | null {
  if (group.equals(group.isIpv4 ? ALL_HOSTS : ALL_NODES) || (!group.isIpv4 && isSolicited(link, group)) || link.groups?.includes(group.text) === true) {
    return true;
  }
  if (group.equals(ALL_ROUTERS)) {
    const forwards = readSysctl(namespace, 'net.ipv6.conf.all.forwarding');
    if (forwards === null || forwards === 1) {
      return forwards === null ? null : true;
    }
  }
  return link.groups === undefined ? null : false;
}

/** ff02::1:ffXX:XXXX ends as an address of the device does. */
function isSolicited(link: NetworkLink, { w0, w1, w2, w3 }: Address): boolean {
  return w0 === (0xff02_0000 | 0) && w1 === 0 && w2 === 1 && w3 >>> 24 === 0xff && link.addresses.some(({ address }) => {
    const own = Address.of(address);
    return !own.isIpv4 && ((own.w3 ^ w3) & 0xff_ffff) === 0;
  });
}
