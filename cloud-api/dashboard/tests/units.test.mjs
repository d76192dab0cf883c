import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runnerImport } from 'vite';
import { flac, forest, random, wav } from './sounds.mjs';

const load = async (path) => (await runnerImport(fileURLToPath(new URL(`../src/lib/${path}`, import.meta.url)))).module;
const { SseParser } = await load('sse.ts');
const { merged } = await load('merged.ts');
const { health } = await load('health.ts');
const { plane } = await load('map.ts');
const { PowerSpectrum } = await load('sound/fft.ts');
const { spectrogram, firstAttack, heightOf, timeTicks } = await load('sound/spectrogram.ts');
const { recordedRate } = await load('sound/clip.ts');
const { percent, ago } = await load('format.ts');

test('SSE: the same events however the stream is cut', () => {
  const text = ': hello\n\nevent: alert\nid: 7\ndata: {"a":\ndata: 1}\n\nretry: 5\n\r\nid: 8\r\ndata:x\r\n\r\ndata: cut';
  const expected = [
    { type: 'alert', data: '{"a":\n1}', id: '7' },
    { type: 'message', data: 'x', id: '8' },
  ];
  for (let a = 0; a <= text.length; a++) {
    for (let b = a; b <= text.length; b += 3) {
      const parser = new SseParser();
      const events = [text.slice(0, a), text.slice(a, b), text.slice(b)].flatMap((piece) => parser.push(piece));
      assert.deepEqual(events, expected, `cut at ${a} and ${b}`);
    }
  }
});

test('an event told twice keeps what it learned, in any order', () => {
  const base = { id: 'x', windows: 2, duration_ms: null, decided_after_ms: null, noise_floor_dbfs: null, scores: null, location: null, clip: null };
  const done = { ...base, windows: 3, duration_ms: 900, decided_after_ms: 1200, noise_floor_dbfs: -60, scores: { a: 1 }, clip: { status: 'expected' } };
  const stored = { ...done, clip: { status: 'stored' } };
  const tellings = [base, done, stored];
  for (const order of [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]) {
    const [first, ...rest] = order.map((index) => tellings[index]);
    assert.deepEqual(rest.reduce(merged, first), stored, order.join());
  }
});

test('spectrum: a full-scale sine has power 1 in its bin, against a slow transform elsewhere', () => {
  const size = 64;
  const spectrum = new PowerSpectrum(size);
  const out = new Float32Array(size / 2 + 1);
  spectrum.measure(Float32Array.from({ length: size }, (_, n) => Math.sin((2 * Math.PI * 9 * n) / size)), 0, out, 0);
  assert.ok(Math.abs(out[9] - 1) < 1e-5, `power ${out[9]}`);
  assert.ok(out[13] < 1e-9);

  const next = random(3);
  const noise = Float32Array.from({ length: size }, () => next() - 0.5);
  spectrum.measure(noise, 0, out, 0);
  for (let k = 0; k <= size / 2; k++) {
    let re = 0;
    let im = 0;
    for (let n = 0; n < size; n++) {
      const weighted = noise[n] * (0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
      re += weighted * Math.cos((2 * Math.PI * k * n) / size);
      im -= weighted * Math.sin((2 * Math.PI * k * n) / size);
    }
    const slow = ((re * re + im * im) * 16) / (size * size);
    assert.ok(Math.abs(out[k] - slow) <= 1e-5 * (1 + slow), `bin ${k}: ${out[k]} instead of ${slow}`);
  }
});

test('the first attack is the shot, near or far, or the first bark; silence has none', () => {
  for (const [seed, onset, distance] of [[1, 4, 150], [2, 2.5, 400], [3, 7.2, 900]]) {
    const found = firstAttack(spectrogram(forest({ seed, onset, distance }), 16_000));
    assert.ok(Math.abs(found - onset) < 0.04, `shot at ${onset} s in ${distance} m found at ${found}`);
  }
  const barks = firstAttack(spectrogram(forest({ seed: 4, onset: 3, kind: 'barks' }), 16_000));
  assert.ok(Math.abs(barks - 3) < 0.1, `barks from 3 s found at ${barks}`);
  assert.equal(firstAttack(spectrogram(new Float32Array(32_000), 16_000)), null);
});

test('spectrogram: odd lengths and empty sound are drawn, not thrown', () => {
  for (const length of [0, 1, 63, 16_001]) {
    const picture = spectrogram(new Float32Array(length).fill(0.1), 16_000);
    assert.ok(picture.columns >= 1 && picture.ceiling > picture.floor, `length ${length}`);
    assert.ok(picture.db.every(Number.isFinite));
  }
  assert.ok(Math.abs(heightOf(8_000, 8_000) - 1) < 1e-9);
  assert.deepEqual(timeTicks({ from: 0, to: 10 }, 0.2), [0, 2, 4, 6, 8, 10]);
});

test('the rate is read from WAV and FLAC headers, else the usual one', () => {
  const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  assert.equal(recordedRate(view(wav(new Float32Array(4), 22_050))), 22_050);
  assert.equal(recordedRate(view(flac(new Float32Array(4), 48_000))), 48_000);
  assert.equal(recordedRate(view(Buffer.from('fLaC'))), 16_000);
  assert.equal(recordedRate(view(Buffer.alloc(0))), 16_000);
  assert.equal(recordedRate(view(wav(new Float32Array(4), 4_000_000))), 16_000);
});

test('health: only a station that says that it hears is listening', () => {
  const now = Date.parse('2026-01-01T12:00:00Z');
  const at = (seconds) => new Date(now - seconds * 1_000).toISOString();
  const telemetry = { time: at(20), uptime_s: 1, windows: 1, inference_p50_us: 9_000, inference_p99_us: 12_000, dropped_samples: 0, gaps: 0, outbox_records: 0, outbox_oldest_s: 0, clips_pending: 0, disk_free_mib: 9_000, cpu_temperature_c: null, noise_floor_dbfs: -60, source: 'healthy' };
  const device = { id: 'd', name: 'd', site_id: 's', state: 'online', last_seen: at(5), telemetry };
  const of = (top, report) => health({ ...device, ...top, ...(report ? { telemetry: { ...telemetry, ...report } } : {}) }, now);
  assert.deepEqual(of({}), { level: 'ok', word: 'Listening', reasons: [], listening: true });
  const bad = [
    of({ state: 'offline' }), of({ state: 'unknown' }), of({ telemetry: null }), of({}, { time: at(700) }), of({}, { source: 'failed' }),
    of({}, { source: 'recovering' }), of({}, { source: 'ended' }), of({}, { source: 'starting' }), of({}, { noise_floor_dbfs: -120 }),
  ];
  for (const condition of bad) {
    assert.equal(condition.listening, false, condition.word);
    assert.notEqual(condition.level, 'ok', condition.word);
    assert.ok(condition.reasons.length > 0);
  }
  for (const report of [{ time: at(250) }, { inference_p99_us: 600_000 }, { outbox_records: 3, outbox_oldest_s: 500 }, { disk_free_mib: 20 }, { cpu_temperature_c: 91 }]) {
    assert.equal(of({}, report).level, 'warn', JSON.stringify(report));
  }
});

test('map: north is up, east is right, everything inside, one station in the middle', () => {
  const places = [{ lat: -24, lon: 31 }, { lat: -24.2, lon: 31.4 }];
  const ground = plane(places, 400, 300, 40);
  assert.ok(ground.y(places[0]) < ground.y(places[1]) && ground.x(places[0]) < ground.x(places[1]));
  for (const place of places) {
    assert.ok(ground.x(place) >= 39.9 && ground.x(place) <= 360.1 && ground.y(place) >= 39.9 && ground.y(place) <= 260.1);
  }
  const alone = plane([places[0]], 400, 300, 40);
  assert.deepEqual([alone.x(places[0]), alone.y(places[0])], [200, 150]);
});

test('words do not promise more than the numbers', () => {
  assert.equal(percent(0.997), '99 %');
  assert.equal(percent(1), '100 %');
  assert.equal(ago(1_000_000 - 61_000, 1_000_000), '1 min ago');
  assert.equal(ago(1_000_000 + 120_000, 1_000_000), 'in 2 min');
  assert.equal(ago('rubbish', 1_000_000), 'at an unknown time');
});
