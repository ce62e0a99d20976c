import type { CommandContext, OptionDefinitions } from '../../command.ts';

/** One thing that `meshpath rules` does; its operands come without its own name. */
export interface RulesSubcommand {
  readonly name: string;
  /** Its operands as help shows them. */
  readonly usage: string;
  readonly operands: { readonly min: number; readonly max: number };
  /** Help: paragraphs. */
  readonly description: readonly string[];
  readonly options: OptionDefinitions;
  /** Does it and gives the exit code; rejects with a MeshpathError. */
  run(context: CommandContext): Promise<number>;
}
