import type { Difference } from './compareCase.ts';
import type { PacketDraft } from '../../simulator/netfilter/packetDraft.ts';
import type { JudgeCase } from './judgeCase.ts';

/** What an entry looks at. */
type DeclaredCase = Pick<JudgeCase, 'rules' | 'stimuli' | 'backend'>;

/**
 * Every difference between the simulator and the kernel that is known and stays. A difference that no entry declares fails
 * the run. docs/netfilterLedger.md is the same list for people; a test holds the two together.
 */
export interface LedgerEntry {
  readonly name: string;
  /** One sentence: what the kernel does that the simulator does not. */
  readonly title: string;
  /** Says whether a difference is this one. */
  readonly declares: (judged: DeclaredCase, difference: Difference) => boolean;
}

export const LEDGER: readonly LedgerEntry[] = [
  {
    name: 'template',
    title: 'In table raw, after CT --zone, connection matches of the kernel look at the template that CT attached; the simulator sees no connection yet.',
    declares: ({ rules }: DeclaredCase, { aspect }: Difference): boolean => aspect !== 'call' && rules.some(({ ipv4, ipv6 }) => [ipv4, ipv6].some((text) => tablesOf(text, 'raw').some((raw) => raw.includes('-j CT --zone') && /-m (?:conntrack|connmark|state) /.test(raw)))),
  },
  {
    name: 'loopback6',
    title: 'For answers between ::1 and another address IPv6 looks up the way by the device that owns the address that was reached; the simulator follows that only where there is no route at all.',
    declares: ({ stimuli }: DeclaredCase, { stimulus }: Difference): boolean => {
      const packet = packetOf(stimuli[stimulus]);
      return packet !== null && (packet.source === '::1') !== (packet.destination === '::1');
    },
  },
  {
    name: 'ownTuple',
    title: 'A packet of a protocol without ports from an address to itself answers itself for conntrack; the simulator does not keep such a connection.',
    declares: ({ stimuli }: DeclaredCase, { stimulus }: Difference): boolean => {
      const packet = packetOf(stimuli[stimulus]);
      return packet?.transport.kind === 'other' && packet.source === packet.destination;
    },
  },
  {
    name: 'sequence',
    title: 'What TCP makes of a crafted segment of a half-open connection depends on sequence numbers, which the simulator does not have.',
    declares: ({ stimuli }: DeclaredCase, { aspect, stimulus }: Difference): boolean => {
      const packet = packetOf(stimuli[stimulus]);
      return stimulus > 0 && (aspect === 'passage' || aspect === 'connections') && packet?.transport.kind === 'tcp' && !(packet.transport.flags.length === 1 && packet.transport.flags[0] === 'SYN');
    },
  },
  {
    name: 'templateOfAnswers',
    title: 'Answers about an untracked packet carry an empty connection, so that NOTRACK and CT of table raw skip them; the simulator applies them.',
    declares: ({ rules }: DeclaredCase, { kernel }: Difference): boolean => rules.some(({ ipv4, ipv6 }) => [ipv4, ipv6].some((text) => tablesOf(text, 'raw').some((raw) => /-j (?:NOTRACK|CT) ?/.test(raw)))) && /OUTPUT +(?:icmp|tcp)/.test(kernel),
  },
];

function packetOf(stimulus: JudgeCase['stimuli'][number] | undefined): PacketDraft | null {
  return stimulus === undefined || stimulus.kind === 'connect' ? null : stimulus.packet;
}

/** The blocks of a table in a rule set. */
function tablesOf(text: string, table: string): readonly string[] {
  return text.split(/^COMMIT$/m).filter((block) => new RegExp(`^\\*${table}$`, 'm').test(block));
}

/** Gives the name of the entry that declares a difference; undefined where none does. */
export function findDeclared(judged: DeclaredCase, difference: Difference): string | undefined {
  return LEDGER.find((entry) => entry.declares(judged, difference))?.name;
}
