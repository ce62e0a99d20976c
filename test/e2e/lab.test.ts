import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findLabs, removeLab } from '../../agent/lab/removeLab.ts';
import { missingForKernel } from '../requirements.ts';
import { withSession } from './session.ts';
import { answerDialog, answerInput, findWebview, openSidebar, pickItem, runCommand, saveScreenshot, statusBarItem } from './workbench.ts';
import { missingForWorkbench } from './workbenchRequirements.ts';

const kernel = missingForKernel();
const skip = kernel === false ? missingForWorkbench() : kernel;

async function labsUp(): Promise<readonly string[]> {
  return (await findLabs()).filter(({ state }) => state === 'up').map(({ name }) => name);
}

test('a lab is brought up on this machine from VS Code, shows what each end of its traffic saw, and is taken down', { skip }, async () => {
  const earlier = new Set(await labsUp());
  try {
    await withSession('lab', {}, async ({ page }) => {
      await runCommand(page, 'Meshpath: Connect to This Machine');
      await statusBarItem(page, 'Meshpath: 1 node').waitFor();
      await openSidebar(page, 'Meshpath');
      await runCommand(page, 'Meshpath: Bring Lab Up…');
      await pickItem(page, 'istio', 'Which mesh?');
      await pickItem(page, 'iptables', 'What leads traffic to the sidecars?');
      await pickItem(page, 'builtin', 'Which sidecar?');
      await answerInput(page, 'How many pods', '2');
      await answerDialog(page, /Bring up the lab/, 'Bring Up');
      for (const deadline = Date.now() + 60_000; (await labsUp()).every((name) => earlier.has(name)) && Date.now() < deadline; ) {
        await page.waitForTimeout(100);
      }
      assert.equal((await labsUp()).filter((name) => !earlier.has(name)).length, 1);

      await runCommand(page, 'Meshpath: Run Traffic in Lab…');
      await pickItem(page, 'pod-a', 'Whose client connects?');
      await pickItem(page, 'pod-b', 'To whose server?');
      await answerInput(page, 'How many connections', '12');
      const report = await findWebview(page, { selector: '.markdown-body h2' });
      const text = (await report.locator('.markdown-body').textContent()) ?? '';
      assert.match(text, /12 of 12 to 10\.77\.0\.12:8080 exact/);
      assert.match(text, /saw connections come from 127\.0\.0\.6 \(12 ×\)/);
      await saveScreenshot(page, 'lab-report');

      await runCommand(page, 'Meshpath: Take Lab Down');
      await answerDialog(page, /Take down the lab/, 'Take Down');
      for (const deadline = Date.now() + 60_000; (await labsUp()).some((name) => !earlier.has(name)) && Date.now() < deadline; ) {
        await page.waitForTimeout(100);
      }
      assert.deepEqual((await labsUp()).filter((name) => !earlier.has(name)), []);
    });
  } finally {
    await Promise.all((await labsUp()).filter((name) => !earlier.has(name)).map(removeLab));
  }
});
