// Chromium for tests and screenshots.

import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const CANDIDATES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

export async function launch() {
  const executablePath = CANDIDATES.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error('No Chromium found: install the package chromium, or set CHROMIUM to its path.');
  return chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--autoplay-policy=user-gesture-required', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'],
  });
}

export const DESKTOP = { width: 1440, height: 900 };
export const PHONE = { width: 375, height: 812 };

/**
 * A page that notes what must never happen: CSP violations, requests to other hosts, errors.
 * `faults()` lists them; requests that failed because a test stopped the server are not faults.
 */
export async function openPage(browser, url, { viewport = DESKTOP, phone = false, colorScheme = 'dark', reducedMotion = 'no-preference', goto = true } = {}) {
  const context = await browser.newContext({ viewport, colorScheme, reducedMotion, deviceScaleFactor: phone ? 2 : 1, hasTouch: phone, isMobile: phone, locale: 'en-GB', timezoneId: 'Africa/Johannesburg' });
  const page = await context.newPage();
  const faults = [];
  const host = new URL(url).host;
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) => {
      window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  page.on('request', (request) => {
    const target = new URL(request.url());
    if (target.protocol.startsWith('http') && target.host !== host) faults.push(`external request: ${request.url()}`);
    if (!target.protocol.startsWith('http')) faults.push(`request outside http: ${request.url().slice(0, 80)}`);
  });
  page.on('pageerror', (error) => faults.push(`page error: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() !== 'error' && message.type() !== 'warning') return;
    if (/Failed to load resource: net::ERR_(CONNECTION|INCOMPLETE|EMPTY)/.test(message.text())) return;
    faults.push(`console: ${message.text()} ${message.location().url}`);
  });
  if (goto) await page.goto(url);
  return {
    page,
    faults: async () => [...faults, ...(await page.evaluate(() => window.violations)).map((text) => `CSP: ${text}`)],
    close: () => context.close(),
  };
}

/**
 * Mean brightness (0 to 255) of the spectrogram in a band of `width` seconds at `at` seconds, and
 * of the whole picture, with its spread.
 */
export async function brightness(page, at, width = 0.06) {
  return page.evaluate(
    ([at, width]) => {
      const canvas = document.querySelector('canvas[data-onset]');
      // Read from a copy: reading the page's own canvas changes how it is drawn.
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      const from = Number(canvas.dataset.from);
      const to = Number(canvas.dataset.to);
      const column = (seconds) => Math.round(((seconds - from) / (to - from)) * canvas.width);
      const mean = (first, last) => {
        let sum = 0;
        let squares = 0;
        let count = 0;
        for (let y = 0; y < canvas.height; y++) {
          for (let x = Math.max(0, first); x < Math.min(canvas.width, last); x++) {
            const i = (y * canvas.width + x) * 4;
            const value = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
            sum += value;
            squares += value * value;
            count += 1;
          }
        }
        return { mean: sum / count, spread: Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2)) };
      };
      return { at: mean(column(at), Math.max(column(at) + 2, column(at + width))).mean, whole: mean(0, canvas.width), onset: canvas.dataset.onset === '' ? null : Number(canvas.dataset.onset) };
    },
    [at, width],
  );
}
