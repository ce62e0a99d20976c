import type { Command } from './command.ts';
import { accelerateCommand } from './commands/accelerate.ts';
import { cgroupsCommand } from './commands/cgroups.ts';
import { cleanCommand } from './commands/clean.ts';
import { connectionsCommand } from './commands/connections.ts';
import { doctorCommand } from './commands/doctor.ts';
import { explainCommand } from './commands/explain.ts';
import { labDownCommand, labRunCommand, labStatusCommand, labUpCommand } from './commands/lab.ts';
import { linksCommand } from './commands/links.ts';
import { mapsCommand } from './commands/maps.ts';
import { programsCommand } from './commands/programs.ts';
import { rulesCoverageCommand } from './commands/rulesCoverage.ts';
import { rulesDiffCommand } from './commands/rulesDiff.ts';
import { RULES_GENERATE_COMMANDS } from './commands/rulesGenerate.ts';
import { rulesLintCommand } from './commands/rulesLint.ts';
import { rulesPrintCommand } from './commands/rulesPrint.ts';
import { rulesSourcesCommand } from './commands/rulesSources.ts';
import { snapshotCommand } from './commands/snapshot.ts';

/** All commands, in the order of help. */
export const COMMANDS: readonly Command[] = [
  doctorCommand,
  explainCommand,
  rulesPrintCommand,
  rulesLintCommand,
  rulesCoverageCommand,
  rulesDiffCommand,
  rulesSourcesCommand,
  ...RULES_GENERATE_COMMANDS,
  accelerateCommand,
  connectionsCommand,
  cleanCommand,
  labUpCommand,
  labRunCommand,
  labStatusCommand,
  labDownCommand,
  mapsCommand,
  programsCommand,
  linksCommand,
  cgroupsCommand,
  snapshotCommand,
];
