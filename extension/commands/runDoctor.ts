import { writeDoctorDocument } from '../views/doctorDocument.ts';
import { chooseReadyNode } from './choose.ts';
import { withCancellableProgress } from './progress.ts';
import type { Services } from './services.ts';

/** Examines a node and shows what was found as a document. */
export async function runDoctor(services: Services, argument: unknown): Promise<void> {
  const chosen = await chooseReadyNode(services, argument);
  if (chosen === undefined) {
    return;
  }
  const { label } = chosen.known.session;
  const report = await withCancellableProgress(`Examining ${label}`, (signal) => chosen.node.call('runDoctor', {}, { signal }));
  services.log.info(`${label}: the doctor says ${report.verdict}: ${report.summary}`);
  await services.reportDocuments.show(chosen.known.key, `Doctor of ${label}`, writeDoctorDocument(label, report));
}
