import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { brightness, launch, openPage, PHONE } from './browser.mjs';
import { fakeGate, ONSET_S, startFakeServer } from './fake-server.mjs';

const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

/** Runs `body` with a server and a page, and checks that nothing forbidden happened. */
function scenario(name, { server: options = {}, page: look = {}, hash = '', faultless = true }, body) {
  test(name, { timeout: 60_000 }, async () => {
    const server = await startFakeServer(options);
    const opened = await openPage(browser, server.url + hash, look);
    try {
      await body(opened.page, server, opened);
      if (faultless) assert.deepEqual(await opened.faults(), []);
    } finally {
      await opened.close();
      await server.stop();
    }
  });
}

const card = (page, id) => page.locator(`.feed a[data-event="${id}"]`);
const live = (page) => page.locator('[role=status].live').waitFor();
const cardIds = (page) => page.locator('.feed a[data-event]').evaluateAll((cards) => cards.map((element) => element.dataset.event));

test('the first load is small', async () => {
  const dist = new URL('../dist/', import.meta.url);
  const html = await readFile(new URL('index.html', dist), 'utf8');
  assert.doesNotMatch(html, /<style|style=|<script>|onclick|https?:/);
  const scripts = [...html.matchAll(/(?:src|href)="(\/[^"]+\.js)"/g)].map((match) => match[1]);
  let size = 0;
  for (const script of scripts) size += gzipSync(await readFile(fileURLToPath(new URL(`.${script}`, dist)))).length;
  assert.ok(scripts.length >= 2 && size < 60_000, `${size} bytes gzipped in ${scripts}`);
});

scenario('alerts are listed newest first, with what a ranger needs', {}, async (page, server) => {
  await card(page, [...server.state.events.keys()][0]).waitFor();
  const times = await page.locator('.feed time').evaluateAll((items) => items.map((item) => item.dateTime));
  assert.equal(times.length, 9);
  assert.deepEqual(times, [...times].sort().reverse());
  const first = await page.locator('.feed a[data-event]').first().innerText();
  for (const part of ['Gunshot', 'river-bend', 'letaba', '97 %', 'dB over noise', 'windows', 'in 1.2 s', 'GMT+2', 'Recording']) assert.ok(first.includes(part), `${part} in ${first}`);
  await page.getByText('Station clock runs free').first().waitFor();
  await page.getByText('Delivered 46 min late').waitFor();
  await page.getByText('Self-test, no real shot').waitFor();
  const counters = await page.locator('.counters').innerText();
  assert.match(counters.replace(/\s+/g, ' '), /5\/7 stations listening .*alerts in 24 h/);
});

scenario('a new alert shows within a second, once, and grows in place', {}, async (page, server) => {
  await live(page);
  await page.locator('canvas[data-onset]').waitFor();
  const event = server.makeEvent({ station: 5, score: 0.88 });
  const started = Date.now();
  server.publish('alert', event);
  server.publish('alert', event);
  await card(page, event.id).waitFor({ timeout: 1_000 });
  assert.ok(Date.now() - started < 1_000);
  assert.equal((await cardIds(page))[0], event.id);
  assert.equal(await card(page, event.id).count(), 1);
  await page.locator(`[data-detail="${event.id}"]`).waitFor();
  await page.getByText('The station has not announced a recording').waitFor();
  assert.match(await page.locator('[aria-live=assertive]').textContent(), /New alert: Gunshot at salt-lick, olifants/);

  await card(page, event.id).evaluate((element) => (element.mark = 'same node'));
  const done = server.complete(event);
  server.publish('detection', server.withClip(done, 'expected'));
  await card(page, event.id).getByText('Expected', { exact: true }).waitFor();
  await card(page, event.id).getByText(/dB over noise/).waitFor();
  server.publish('clip', server.withClip(done, 'uploading'));
  await card(page, event.id).getByText('Uploading').waitFor();
  server.publish('clip', server.withClip(done, 'stored'));
  await card(page, event.id).getByText('Recording').waitFor();
  server.publish('alert', event);
  await page.locator('canvas[data-onset]').waitFor();
  assert.ok(await card(page, event.id).getByText('Recording').isVisible(), 'a late repetition takes nothing back');
  assert.equal(await card(page, event.id).evaluate((element) => element.mark), 'same node');
  assert.equal(await card(page, event.id).count(), 1);
});

scenario('after a server restart the page catches up, each alert once', { faultless: false }, async (page, server) => {
  await live(page);
  const before = server.makeEvent({ station: 1 });
  server.publish('alert', before);
  await card(page, before.id).waitFor();
  await server.stop();
  await page.getByText(/Not live\. Last word from the server/).waitFor();
  assert.match(await page.locator('header [role=status]').innerText(), /Reconnecting|Offline/);
  // One that the stream will repeat, one that only a fetch can tell.
  const replayed = server.makeEvent({ station: 2 });
  server.publish('alert', replayed);
  const fetched = server.makeEvent({ station: 3 });
  server.publish('alert', fetched, { silent: true });
  await page.waitForTimeout(800);
  assert.equal(await card(page, replayed.id).count(), 0);
  await server.restart();
  await card(page, replayed.id).waitFor({ timeout: 10_000 });
  await card(page, fetched.id).waitFor({ timeout: 10_000 });
  await live(page);
  await page.getByText(/Not live/).waitFor({ state: 'detached' });
  const ids = await cardIds(page);
  assert.equal(ids.length, new Set(ids).size);
  assert.equal(ids.filter((id) => id === before.id).length, 1);
  const next = server.makeEvent({ station: 0 });
  server.publish('alert', next);
  await card(page, next.id).waitFor({ timeout: 5_000 });
});

scenario('what the stream cannot tell is asked for again', {}, async (page, server) => {
  await live(page);
  const missed = server.makeEvent({ station: 4, score: 0.9 });
  server.publish('alert', missed, { silent: true });
  const gap = 'event: gap\nid: 4096\ndata: {"reason":"ask for the lists again"}\n\n';
  for (const stream of server.state.streams) stream.write(gap);
  await card(page, missed.id).waitFor({ timeout: 5_000 });
});

scenario('space plays the clip, and the spectrogram shows the shot', {}, async (page) => {
  await page.locator('a[data-event]:has(.clip.ready)').first().click();
  await page.locator('canvas[data-onset]').waitFor();
  await page.waitForTimeout(200);
  // The picture may be drawn anew when the recording has come whole.
  await page.locator('canvas[data-onset]').waitFor();
  const picture = await brightness(page, ONSET_S + 0.01);
  assert.ok(picture.whole.spread > 15, `a picture, not a plane: spread ${picture.whole.spread}`);
  assert.ok(picture.at > picture.whole.mean + 40, `onset ${picture.at} over ${picture.whole.mean}`);
  assert.ok(Math.abs(picture.onset - ONSET_S) < 0.05, `marker at ${picture.onset}`);
  const calm = await brightness(page, ONSET_S + 3);
  assert.ok(calm.at < picture.at - 40);

  const position = () => page.locator('[data-position]').getAttribute('data-position').then(Number);
  assert.equal(await position(), 0);
  await page.keyboard.press('Space');
  await page.getByRole('button', { name: 'Pause' }).waitFor();
  await page.waitForFunction(() => Number(document.querySelector('[data-position]').dataset.position) > 0.4);
  await page.keyboard.press('Space');
  await page.getByRole('button', { name: 'Play' }).waitFor();
  const paused = await position();
  await page.waitForTimeout(250);
  assert.equal(await position(), paused);

  await page.getByRole('button', { name: 'To onset' }).click();
  assert.ok(Math.abs((await position()) - (ONSET_S - 0.7)) < 0.05);
  await page.getByRole('button', { name: 'Louder' }).click();
  await page.getByText('+6 dB', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Zoom in' }).click();
  await page.getByRole('button', { name: 'Zoom in' }).click();
  const range = await page.locator('canvas[data-onset]').evaluate((canvas) => Number(canvas.dataset.to) - Number(canvas.dataset.from));
  assert.ok(Math.abs(range - 2.5) < 0.01, `zoomed to ${range} s`);
  assert.ok((await brightness(page, ONSET_S + 0.01, 0.01)).at > picture.whole.mean + 40);
  await page.getByRole('slider').focus();
  await page.keyboard.press('Home');
  assert.equal(await position(), 0);
  await page.keyboard.press('ArrowRight');
  assert.equal(await position(), 0.25);
  const href = await page.getByRole('link', { name: 'Download' }).getAttribute('href');
  assert.match(href, /^\/api\/v1\/clips\/.+\/data$/);
});

scenario('j and k move, Escape follows the newest again, listening pins', {}, async (page, server) => {
  await live(page);
  await page.locator('[data-detail]').waitFor();
  const ids = await cardIds(page);
  const shown = () => page.locator('[data-detail]').getAttribute('data-detail');
  assert.equal(await shown(), ids[0]);
  await page.getByText('following the newest').waitFor();
  for (const [key, index] of [['j', 1], ['j', 2], ['k', 1]]) {
    await page.keyboard.press(key);
    assert.equal(await shown(), ids[index]);
  }
  const next = server.makeEvent({ station: 0 });
  server.publish('alert', next);
  await card(page, next.id).waitFor();
  assert.equal(await shown(), ids[1], 'a chosen alert stays');
  await page.keyboard.press('Escape');
  await page.locator(`[data-detail="${next.id}"]`).waitFor();
});

scenario('filters and pages', { server: { alerts: 230, others: 120 } }, async (page, server) => {
  await page.getByRole('button', { name: 'Older alerts' }).waitFor();
  assert.equal((await cardIds(page)).length, 100);
  await page.getByRole('button', { name: 'Older alerts' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.feed a[data-event]').length === 200);
  await page.getByRole('button', { name: 'Older alerts' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.feed a[data-event]').length === 230);
  assert.equal(await page.getByRole('button', { name: 'Older alerts' }).count(), 0);

  const events = [...server.state.events.values()];
  await page.getByLabel('Site').selectOption('olifants');
  const inSite = events.filter((event) => event.alert && event.site_id === 'olifants').length;
  await page.waitForFunction((count) => document.querySelectorAll('.feed a[data-event]').length === count, inSite);
  assert.match(page.url(), /site=olifants/);
  const elsewhere = server.makeEvent({ station: 0 });
  const here = server.makeEvent({ station: 5 });
  server.publish('alert', elsewhere);
  server.publish('alert', here);
  await card(page, here.id).waitFor();
  assert.equal(await card(page, elsewhere.id).count(), 0, 'live alerts obey the filter');

  await page.getByLabel('Site').selectOption('');
  await page.getByRole('link', { name: 'Detections' }).click();
  const rows = page.locator('tbody tr');
  await page.getByRole('combobox', { name: 'Sound' }).selectOption('dog');
  await page.waitForFunction(() => [...document.querySelectorAll('tbody th')].every((cell) => cell.innerText.includes('Dog')) && document.querySelector('tbody th'));
  assert.equal(await rows.count(), events.filter((event) => event.class === 'dog').length);
  const dogs = events.filter((event) => event.class === 'dog' && event.device_name === 'marula-gate');
  await page.getByRole('combobox', { name: 'Station' }).selectOption({ label: 'marula-gate' });
  await page.waitForFunction((count) => document.querySelectorAll('tbody tr').length === count, dogs.length);
  await page.getByRole('combobox', { name: 'Time' }).selectOption({ label: 'Last hour' });
  await page.getByText('Nothing fits these filters.').waitFor();
  await page.getByRole('combobox', { name: 'Time' }).selectOption({ label: 'All time' });
  await rows.first().getByRole('link').click();
  await page.locator(`[data-detail="${dogs.sort((a, b) => (a.time < b.time ? 1 : -1))[0].id}"]`).waitFor();
});

scenario('stations that are deaf or gone stand out, and change live', { hash: '#/stations' }, async (page, server) => {
  await page.locator('[data-station]').first().waitFor();
  await live(page);
  const first = await page.locator('[data-station]').evaluateAll((cards) => cards.slice(0, 3).map((element) => element.querySelector('h3').textContent));
  assert.deepEqual(first, ['fever-tree-camp', 'old-airstrip', 'kopje-west']);
  await page.getByText('3 of 7 need attention').waitFor();
  assert.match(await page.locator('.bad[data-station]').first().innerText(), /Deaf[\s\S]*No sound, reopening/);
  const device = [...server.state.devices.values()].find((other) => other.name === 'ridge-north');
  server.publish('device', { ...device, state: 'offline', last_seen: new Date(Date.now() - 61_000).toISOString() });
  await page.getByText('4 of 7 need attention').waitFor();
  await page.locator(`.bad[data-station="${device.id}"]`).getByText('Silent for 1 min').waitFor();
  await page.getByRole('link', { name: 'old-airstrip: Offline' }).waitFor();
  await page.getByText(/sqlite database/).waitFor();
});

scenario('colour themes persist and red stays red', {}, async (page) => {
  const button = page.getByRole('button', { name: /^Colours/ });
  await page.locator('canvas[data-onset]').waitFor();
  const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const dark = await background();
  await button.click();
  const light = await background();
  assert.notEqual(light, dark);
  await button.click();
  assert.equal(await background(), dark, 'dark is what the system asked for');
  await button.click();
  assert.equal(await background(), 'rgb(0, 0, 0)');
  await page.reload();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'red');
  await page.locator('canvas[data-onset]').waitFor();
  await page.waitForTimeout(2_500);
  const shot = await page.screenshot();
  const worst = await page.evaluate(async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    let most = 0;
    for (let i = 0; i < data.length; i += 4) most = Math.max(most, data[i + 1] - data[i], data[i + 2] - data[i], Math.min(data[i + 1], data[i + 2]));
    return most;
  }, shot.toString('base64'));
  assert.ok(worst < 150, `no pixel near white, green or blue: ${worst}`);
});

scenario('phone: one column without sideways scrolling, card to detail and back', { page: { viewport: PHONE, phone: true } }, async (page) => {
  const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  const first = page.locator('a[data-event]:has(.clip.ready)').first();
  await first.waitFor();
  assert.ok(await fits());
  assert.ok(!(await page.locator('.detail').isVisible()));
  await first.tap();
  await page.locator('canvas[data-onset]').waitFor();
  assert.ok(!(await first.isVisible()));
  assert.ok(await fits());
  const small = await page.locator('.detail button:visible, nav a:visible').evaluateAll((items) => items.filter((item) => item.offsetHeight < 40 && !item.closest('dl')).map((item) => item.outerHTML));
  assert.deepEqual(small, [], 'fingers in gloves need 40 px');
  await page.getByRole('button', { name: 'Play' }).tap();
  await page.getByRole('button', { name: 'Pause' }).waitFor();
  await page.goBack();
  await first.waitFor();
  for (const view of ['Stations', 'Detections']) {
    await page.getByRole('link', { name: view, exact: true }).tap();
    await page.locator('[data-station], tbody tr').first().waitFor();
    assert.ok(await fits(), view);
  }
});

scenario('nothing heard is said so, with who listens', { server: { alerts: 0, others: 0 } }, async (page) => {
  await page.getByText('No alerts').waitFor();
  await page.getByText(/5 of 7 stations listening, last heard from \d+ s ago\./).waitFor();
});

scenario('a server in trouble is named, and recovery needs no reload', { faultless: false, hash: '' }, async (page, server) => {
  server.state.broken = true;
  await page.reload();
  await page.getByText('No alerts could be loaded').waitFor();
  await page.getByText('The database does not answer.').first().waitFor();
  server.state.broken = false;
  await card(page, [...server.state.events.keys()][0]).waitFor({ timeout: 10_000 });
  await live(page);
});

scenario('recordings that are missing or broken say why', { faultless: false }, async (page, server) => {
  await live(page);
  const broken = server.withClip(server.complete(server.makeEvent({ station: 0 })), 'stored');
  server.setClip(broken.id, Buffer.from('this is no sound'));
  server.publish('alert', broken);
  await page.getByText(/This browser cannot decode the recording/).waitFor();
  await page.getByRole('link', { name: 'Download' }).waitFor();

  const gone = server.withClip(server.complete(server.makeEvent({ station: 1 })), 'stored');
  server.state.clips.delete(gone.id);
  server.publish('alert', gone);
  await page.getByText('The recording is not on the server.').waitFor();
  server.setClip(gone.id, (await import('./sounds.mjs')).wav(new Float32Array(1_600)));
  await page.getByRole('button', { name: 'Try again' }).click();
  await page.locator('canvas[data-onset]').waitFor();
});

scenario('an event that turns out to be no alert leaves the alerts; a nameless station is named by its id', {}, async (page, server) => {
  await live(page);
  const event = server.makeEvent({ station: 0, class: 'unknown', device_name: null });
  server.publish('alert', event);
  await card(page, event.id).getByText(`station ${event.device_id.slice(0, 8)}`).waitFor();
  server.publish('detection', { ...server.complete(event), class: 'dog', alert: false });
  await card(page, event.id).waitFor({ state: 'detached' });
});

scenario('names from the field are text, never markup', {}, async (page, server) => {
  await live(page);
  const nasty = '<img src=x onerror="window.hacked=1"><b>x</b>';
  const event = server.withClip(server.complete(server.makeEvent({ station: 0 })), 'stored');
  server.publish('alert', { ...event, class: nasty, device_name: nasty, site_id: nasty, scores: { [nasty]: 0.5 }, model: { name: nasty, version: nasty, tag: nasty } });
  server.publish('device', { ...[...server.state.devices.values()][0], name: nasty, site_id: nasty });
  await card(page, event.id).waitFor();
  await page.locator('canvas[data-onset]').waitFor();
  assert.ok((await card(page, event.id).innerText()).includes('<img src=x'));
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator('main img').count(), 0);
});

scenario('a late alert takes its place by time and is announced', {}, async (page, server) => {
  await live(page);
  const time = new Date(Date.now() - 26 * 3_600_000).toISOString();
  const event = server.makeEvent({ station: 4, time });
  server.publish('alert', { ...event, received_at: new Date().toISOString() });
  await page.getByText('Late delivery from kopje-west: heard 1 d ago').waitFor();
  assert.notEqual((await cardIds(page))[0], event.id);
  await page.getByText('Late delivery from kopje-west').click();
  await page.locator(`[data-detail="${event.id}"]`).waitFor();
});

scenario('alerts behind a hidden tab are counted in its title; self-tests are not', {}, async (page, server) => {
  await live(page);
  await page.evaluate(() => Object.defineProperty(document, 'hidden', { value: true, configurable: true }));
  server.publish('alert', server.makeEvent({ station: 0, canary: true }));
  server.publish('alert', server.makeEvent({ station: 1 }));
  await page.waitForFunction(() => document.title === '(1) EcoSight');
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { value: false, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await page.waitForFunction(() => document.title === 'EcoSight');
});

scenario('an event is reached by its address, an unknown one is said to be unknown', { hash: '', faultless: false }, async (page, server) => {
  const old = [...server.state.events.values()].filter((event) => !event.alert).at(-1);
  await page.goto(`${server.url}#/detections/${old.id}`);
  await page.locator(`[data-detail="${old.id}"]`).waitFor();
  await page.goto(`${server.url}#/alerts/01900000-0000-7000-8000-000000000000`);
  await page.getByText('No such event').waitFor();
});

for (const theme of ['light', 'dark', 'red']) {
  scenario(`accessible in every view (${theme})`, { page: { goto: false, reducedMotion: 'reduce' } }, async (page, server) => {
    await page.addInitScript((value) => localStorage.setItem('ecosight.settings', JSON.stringify({ theme: value })), theme);
    for (const [view, ready] of [['alerts', 'canvas[data-onset]'], ['stations', '[data-station]'], ['detections', 'tbody tr']]) {
      await page.goto(`${server.url}#/${view}`);
      await page.locator(ready).first().waitFor();
      assert.equal(await page.locator('.live .dot').evaluate((dot) => getComputedStyle(dot).animationName), 'none');
      await page.evaluate(AXE);
      const found = await page.evaluate(async () => (await window.axe.run()).violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => `${node.html.slice(0, 160)} ${node.any.map((check) => check.message).join(' ')}`).slice(0, 3).join(' | ')}`));
      assert.deepEqual(found.filter((text) => /^(serious|critical)/.test(text)), [], view);
      assert.deepEqual(found, [], view);
    }
  });
}

scenario('a verdict is two presses, shows who gave it, and can be taken back', {}, async (page, server) => {
  const id = [...server.state.events.keys()][0];
  await page.locator(`[data-detail="${id}"]`).waitFor();
  const bar = page.locator('section[aria-label=Verdict]');
  await bar.getByRole('button', { name: 'False alarm' }).click();
  await bar.getByRole('button', { name: /Thunder/ }).click();
  await bar.getByText('False alarm: thunder').waitFor();
  await bar.getByText(/by anna/).waitFor();
  assert.deepEqual(server.state.asked.at(-1).body, { verdict: 'rejected', cause: 'thunder' });
  await bar.getByRole('button', { name: 'Take back' }).click();
  await bar.getByText('False alarm: thunder').waitFor({ state: 'detached' });
  await page.keyboard.press('f');
  await page.keyboard.press('5');
  await bar.getByText('False alarm: hail').waitFor();
  await page.keyboard.press('c');
  await bar.getByText('Confirmed').waitFor();
  await bar.getByRole('button', { name: 'It was something else' }).click();
  await bar.getByRole('button', { name: 'Dog' }).click();
  await bar.getByText('It was: dog').waitFor();
});

scenario('who may not judge is told so', { faultless: false }, async (page, server) => {
  server.state.forbidden = true;
  const bar = page.locator('section[aria-label=Verdict]');
  await bar.waitFor();
  await page.keyboard.press('c');
  await bar.getByRole('alert').waitFor();
  assert.match(await bar.getByRole('alert').innerText(), /may look, but not judge/);
});

scenario('the review goes from one recording to the next by keys', { hash: '#/review', server: { alerts: 3, others: 2 } }, async (page, server) => {
  const shown = page.locator('[data-review]');
  await shown.waitFor();
  const first = await shown.getAttribute('data-review');
  await page.keyboard.press('j');
  await page.waitForFunction((id) => document.querySelector('[data-review]').dataset.review !== id, first);
  const second = await shown.getAttribute('data-review');
  await page.keyboard.press('c');
  await page.waitForFunction((id) => document.querySelector('[data-review]')?.dataset.review !== id, second);
  assert.equal(server.state.events.get(second).verdict.verdict, 'confirmed');
  for (let left = [...server.state.events.values()].filter((event) => !event.verdict && event.clip?.status === 'stored').length; left > 0; left--) {
    const id = await shown.getAttribute('data-review');
    await page.keyboard.press('f');
    await page.keyboard.press('1');
    await page.waitForFunction((seen) => document.querySelector('[data-review]')?.dataset.review !== seen, id);
  }
  await page.getByText('Nothing waits').waitFor();
});

scenario('a shot that no station told of is reported, listened for and judged', { hash: '#/review', server: { alerts: 0, others: 0 } }, async (page, server) => {
  const section = page.locator('section[aria-label="Missed shots"]');
  await section.getByLabel('When').fill('2026-03-01T18:00:05');
  await section.getByLabel('Near').selectOption('letaba');
  await section.getByLabel('Note').fill('one shot, north');
  await section.getByRole('button', { name: 'Ask the stations' }).click();
  await section.getByText('3 stations are asked for that minute.').waitFor();
  const { body } = server.state.asked.at(-1);
  assert.deepEqual({ ...body, time: null }, { time: null, site: 'letaba', note: 'one shot, north' });
  assert.match(body.time, /^2026-03-01T\d\d:00:05\.000Z$/);
  assert.equal(await section.locator('[data-pull]').count(), 3);
  assert.equal(await section.locator('audio').count(), 1, 'only what has arrived can be heard');
  const arrived = section.locator('[data-pull=arrived]');
  await arrived.getByRole('button', { name: 'Shot heard' }).click();
  await section.getByText('the shot is in it, and is learned from').waitFor();
  assert.deepEqual(server.state.asked.at(-1).body, { heard: true });
  await section.locator('[data-pull=heard]').getByRole('button', { name: 'Not heard' }).click();
  await section.locator('[data-pull=not_heard]').waitFor();
  // In degrees, and by one station, which knows where it is.
  await section.getByLabel('Near').selectOption('');
  await section.getByRole('spinbutton', { name: 'North' }).fill('-23.86');
  await section.getByRole('spinbutton', { name: 'East' }).fill('31.61');
  await section.getByRole('button', { name: 'Ask the stations' }).click();
  await page.waitForFunction(() => document.querySelectorAll('[data-missed]').length === 2);
  assert.deepEqual(server.state.asked.at(-1).body.location, { lat: -23.86, lon: 31.61 });
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run('section[aria-label="Missed shots"]'));
  assert.deepEqual(violations.map((found) => found.id), []);
});

scenario('training and gate are told as they go, and a version can be chosen and left again', { hash: '#/learning', page: PHONE }, async (page, server) => {
  await page.getByText('Nothing was trained here yet').waitFor();
  await live(page);
  const job = (over) => ({ id: '019cab00-0000-7000-8000-0000000000ff', kind: 'retrain', state: 'running', created_at: new Date().toISOString(), finished_at: null, progress: null, training: null, result: null, error: null, ...over });
  await page.getByRole('button', { name: 'Train now' }).click();
  await page.getByText('Training on 120 new samples has been queued.').waitFor();
  for (let epoch = 1; epoch <= 3; epoch++) {
    server.publish('training', job({ progress: `training networks to judge it by: 0 of 3, epoch ${epoch}, loss 0.${9 - epoch}`, training: { stage: 'folds', done: 0, all: 3, epoch, loss: 1 - epoch / 10, val_loss: 1.1 - epoch / 20, left_s: 42 } }));
    await page.getByText(`epoch ${epoch}`).waitFor();
  }
  await page.locator('polyline.val').waitFor();
  server.publish('training', job({ state: 'succeeded', finished_at: new Date().toISOString(), result: { samples: 120, gate: fakeGate(false) } }));
  await page.locator('[data-gate=refused]').getByText('raises 3 false alarms').waitFor();
  await page.getByRole('button', { name: 'Activate 0.0.2' }).click();
  await page.getByText('0.0.2 serves.').waitFor();
  assert.equal(await page.locator('li.serving').innerText().then((text) => text.includes('0.0.2')), true);
  await page.getByRole('button', { name: 'Roll back' }).click();
  await page.getByText('The version before serves again.').waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), true, 'nothing hangs over the edge of a phone');
});

scenario('what a station said of releases is listed with its reasons', { hash: '#/releases' }, async (page) => {
  const section = page.locator('section[aria-label="What a station said"]');
  await section.getByLabel('Station').selectOption({ label: 'ridge-north, letaba' });
  await section.locator('[data-step=refused]').getByText('the golden sounds score 0.300 off').waitFor();
  assert.deepEqual(await section.locator('[data-step]').evaluateAll((items) => items.map((item) => item.dataset.step)), ['refused', 'verified', 'accepted']);
});

scenario('a rollout is planned, watched by cohort, stopped with its reason, and sent back', { hash: '#/releases', page: PHONE }, async (page, server) => {
  await page.getByText('leads back from gunshot 0.0.3').waitFor();
  await live(page);
  await page.getByRole('button', { name: 'Plan a rollout' }).click();
  const card = page.locator('[data-rollout]');
  await card.getByText('Planned', { exact: true }).waitFor();
  assert.equal(server.state.asked.at(-1).body.revert_release_id, server.state.releases[0].id, 'the signed way back goes with it');
  await card.getByRole('button', { name: 'Start' }).click();
  await card.getByRole('button', { name: 'Start: sure?' }).click();
  await card.getByText('Running', { exact: true }).waitFor();
  const told = { ...server.state.rollouts[0], cohort: 2, updated_at: new Date(Date.now() + 1_000).toISOString() };
  told.cohorts = told.cohorts.map((cohort, n) => ({ ...cohort, steps: [{ committed: 1 }, { committed: 1, trial: 1, refused: 1 }, { waiting: 3 }][n] }));
  server.publish('rollout', told);
  await card.locator('li[aria-current=step]').getByText('1 under way').waitFor();
  await card.getByText('1 failed').waitFor();
  server.publish('rollout', { ...told, state: 'halted', reason: '1 of 3 stations of cohort 2 refused the release, and 0 may', updated_at: new Date(Date.now() + 2_000).toISOString() });
  await card.getByText('Halted', { exact: true }).waitFor();
  await card.getByText('1 of 3 stations of cohort 2 refused the release, and 0 may.').waitFor();
  await card.getByRole('button', { name: 'Resume' }).waitFor();
  await card.getByRole('button', { name: 'Roll back' }).click();
  await card.getByRole('button', { name: 'Roll back: sure?' }).click();
  for (let n = 0; n < 50 && !server.state.asked.at(-1).path.endsWith('/rollback'); n++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(server.state.asked.at(-1).path.endsWith('/rollback'));
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), true, 'nothing hangs over the edge of a phone');
});
