import { subjectOf } from './choose.ts';
import type { Services } from './services.ts';

/** Shows the next rows of a long list in the tree. */
export function showMoreRows(services: Services, argument: unknown): Promise<void> {
  const subject = subjectOf(argument);
  if (subject?.type === 'more') {
    services.view.showMore(subject.list);
  }
  return Promise.resolve();
}
