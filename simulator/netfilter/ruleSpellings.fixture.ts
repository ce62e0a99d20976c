/** A rule as people write it, and as iptables-save 1.8.9 prints it once the kernel has it. NEXT is a user chain. */
export interface RuleSpelling {
  readonly written: string;
  readonly saved: string;
  readonly table: 'filter' | 'mangle' | 'nat';
  readonly chain: string;
}

/** Held to the reader by its unit test, and to iptables itself by test/kernel. */
export const RULE_SPELLINGS: readonly RuleSpelling[] = [
  { written: '-p tcp --dport 80 -s 10.1.2.3/8 -j ACCEPT', saved: '-s 10.0.0.0/8 -p tcp -m tcp --dport 80 -j ACCEPT', table: 'filter', chain: 'FORWARD' },
  { written: '-j ACCEPT -p 6 --destination-port :1024', saved: '-p tcp -m tcp --dport 0:1024 -j ACCEPT', table: 'filter', chain: 'FORWARD' },
  { written: '-s 10.0.0.0/255.255.0.0 ! -d 1.2.3.4 -i eth+ ! -o lo -j RETURN', saved: '-s 10.0.0.0/16 ! -d 1.2.3.4/32 -i eth+ ! -o lo -j RETURN', table: 'filter', chain: 'FORWARD' },
  { written: '-p tcp --syn -j DROP', saved: '-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP', table: 'filter', chain: 'FORWARD' },
  { written: '-p tcp -m multiport ! --dports 53,15008 -j NEXT', saved: '-p tcp -m multiport ! --dports 53,15008 -j NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-m state --state RELATED,ESTABLISHED -g NEXT', saved: '-m state --state RELATED,ESTABLISHED -g NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-m mark --mark 1337 -j NEXT', saved: '-m mark --mark 0x539 -j NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-m mark ! --mark 0x539/0xfff -j NEXT', saved: '-m mark ! --mark 0x539/0xfff -j NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-j MARK --set-mark 0x0f/0x0c', saved: '-j MARK --set-xmark 0xf/0xf', table: 'mangle', chain: 'FORWARD' },
  { written: '-j CONNMARK --save-mark', saved: '-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff', table: 'mangle', chain: 'FORWARD' },
  { written: '-j REJECT', saved: '-j REJECT --reject-with icmp-port-unreachable', table: 'filter', chain: 'FORWARD' },
  { written: '-p tcp -j REJECT --reject-with tcp-reset', saved: '-p tcp -j REJECT --reject-with tcp-reset', table: 'filter', chain: 'FORWARD' },
  { written: '-p tcp -j REDIRECT --to-port 15053', saved: '-p tcp -j REDIRECT --to-ports 15053', table: 'nat', chain: 'PREROUTING' },
  { written: '-p tcp -j DNAT --to-destination 10.0.0.1-10.0.0.9:80-90', saved: '-p tcp -j DNAT --to-destination 10.0.0.1-10.0.0.9:80-90', table: 'nat', chain: 'PREROUTING' },
  { written: '-m comment --comment "it\'s \\"mine\\"" -j NEXT', saved: '-m comment --comment "it\\\'s \\"mine\\"" -j NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-m comment --comment plain -j NEXT', saved: '-m comment --comment plain -j NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-m addrtype ! --dst-type LOCAL -j NEXT', saved: '-m addrtype ! --dst-type LOCAL -j NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-s 0.0.0.0/0 -i + -j NEXT', saved: '-j NEXT', table: 'filter', chain: 'FORWARD' },
  { written: '-m owner ! --uid-owner 100-200 -m owner --gid-owner 5 -j NEXT', saved: '-m owner ! --uid-owner 100-200 -m owner --gid-owner 5 -j NEXT', table: 'filter', chain: 'OUTPUT' },
];
