// Smoke test against a running server: ECOSIGHT_URL=http://127.0.0.1:8000/ npm run test:live
// It expects at least one alert with a stored clip within ECOSIGHT_WAIT_S (default 60) seconds.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { brightness, launch, openPage } from './browser.mjs';

const url = process.env.ECOSIGHT_URL ?? 'http://127.0.0.1:8000/';
const patience = Number(process.env.ECOSIGHT_WAIT_S ?? 60) * 1_000;

test(`the page of ${url}`, { timeout: patience * 3 + 30_000 }, async () => {
  const browser = await launch();
  const { page, faults, close } = await openPage(browser, url);
  try {
    await page.locator('[role=status].live').waitFor({ timeout: patience });
    await page.locator('.feed a[data-event]').first().waitFor({ timeout: patience });
    const ids = await page.locator('.feed a[data-event]').evaluateAll((cards) => cards.map((card) => card.dataset.event));
    assert.equal(ids.length, new Set(ids).size, 'each alert once');

    const ready = page.locator('.feed a[data-event]:has(.clip.ready)').first();
    await ready.waitFor({ timeout: patience });
    await ready.click();
    await page.locator('canvas[data-onset]').waitFor({ timeout: 20_000 });
    await page.waitForTimeout(300);
    const { whole, onset } = await brightness(page, 0);
    assert.ok(whole.spread > 5, `the spectrogram is not blank: spread ${whole.spread}`);
    if (onset !== null) {
      const { at } = await brightness(page, onset);
      assert.ok(at > whole.mean, `onset column ${at} over ${whole.mean}`);
    }
    await page.keyboard.press('Space');
    await page.waitForFunction(() => Number(document.querySelector('[data-position]').dataset.position) > 0.3, null, { timeout: 10_000 });

    for (const [view, sign] of [['Stations', '[data-station]'], ['Detections', 'tbody tr']]) {
      await page.getByRole('link', { name: view, exact: true }).click();
      await page.locator(sign).first().waitFor({ timeout: 10_000 });
    }
    assert.deepEqual(await faults(), []);
  } finally {
    await close();
    await browser.close();
  }
});
