import * as vscode from 'vscode';
import type { DoctorCheck } from '../../agent/protocol/doctor.ts';
import { effectOf, passGate, SELF_TEST_IDS } from '../../agent/protocol/doctorChecks.ts';
import { writeDoctorDocument } from '../views/doctorDocument.ts';
import { describeOverride } from '../views/limitTexts.ts';
import type { ReadyNode } from './choose.ts';
import { withCancellableProgress } from './progress.ts';
import type { Services } from './services.ts';

/** What the doctor found before acceleration is turned on. */
export interface DoctorFindings {
  /** What would refuse it, and the person overrides. */
  readonly overridden: readonly DoctorCheck[];
  /** What has to be accepted. */
  readonly asked: readonly DoctorCheck[];
}

/**
 * Has the doctor look whether acceleration is safe. Where this kernel would break connections, the person is asked whether to override
 * that. Undefined where it is left at that. Throws what was found where the node lacks something without which nothing can be loaded.
 */
export async function askDoctor(services: Services, { known, node }: ReadyNode): Promise<DoctorFindings | undefined> {
  const { label } = known.session;
  const report = await withCancellableProgress(`Looking whether acceleration is safe at ${label}`, (signal) => node.call('checkAcceleration', {}, { signal }));
  const refused = report.checks.filter((check) => effectOf(check) === 'refused');
  if (refused.some(({ id }) => !SELF_TEST_IDS.some((own) => own === id))) {
    passGate(report.checks, {});
  }
  if (refused.length > 0) {
    const { question, detail } = describeOverride(label, refused);
    const answer = await vscode.window.showErrorMessage(question, { modal: true, detail }, 'Show Report', 'Override');
    if (answer === 'Show Report') {
      await services.reportDocuments.show(known.key, `Doctor of ${label}`, writeDoctorDocument(label, report));
    }
    if (answer !== 'Override') {
      return undefined;
    }
    services.log.warn(`${label}: the doctor is overridden: ${refused.map(({ id, found }) => `${id} (${found})`).join('; ')}`);
  }
  for (const { id, found, problem } of report.checks.filter((check) => effectOf(check) === 'asked' || effectOf(check) === 'told')) {
    services.log.info(`${label}: limit of acceleration (${id}): ${problem?.message ?? found}`);
  }
  return { overridden: refused, asked: report.checks.filter((check) => effectOf(check) === 'asked') };
}
