// Pictures of a running server's page, desktop and phone:
//   npm run screenshot -- URL OUT.png [dark|light|red] [alerts|stations|detections]

import { DESKTOP, launch, openPage, PHONE } from './browser.mjs';

const [url, out, theme = 'dark', view = 'alerts'] = process.argv.slice(2);
if (!url || !out?.endsWith('.png')) {
  console.error('usage: npm run screenshot -- URL OUT.png [dark|light|red] [alerts|stations|detections]');
  process.exit(2);
}

const browser = await launch();
try {
  for (const phone of [false, true]) {
    const { page, close } = await openPage(browser, url, { viewport: phone ? PHONE : DESKTOP, phone, goto: false });
    await page.addInitScript((value) => localStorage.setItem('ecosight.settings', JSON.stringify({ theme: value })), theme);
    await page.goto(new URL(`#/${view}`, url).href);
    await page.locator('[data-event], [data-station], .notice').first().waitFor();
    const path = phone ? out.replace(/\.png$/, '-phone.png') : out;
    if (view === 'alerts') {
      const ready = page.locator('a[data-event]:has(.clip.ready)').first();
      if (await ready.count()) {
        if (phone) {
          await page.waitForTimeout(2_600);
          await page.screenshot({ path: out.replace(/\.png$/, '-phone-feed.png') });
        }
        await ready.click();
        await page.locator('canvas[data-onset]').waitFor();
      }
    }
    // New cards fade in, and the mouse must not leave a hover mark.
    await page.mouse.move(0, 0);
    await page.waitForTimeout(2_600);
    await page.screenshot({ path });
    console.log(path);
    await close();
  }
} finally {
  await browser.close();
}
