// The server's HTTP contract with made-up stations, for development and browser tests.
//   node tests/fake-server.mjs [--port 8000] [--live] [--alerts N]

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { flac, forest, random } from './sounds.mjs';

const DIST = fileURLToPath(new URL('../dist/', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2', '.txt': 'text/plain; charset=utf-8' };
export const CSP = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'";
const MODEL = { name: 'forest-ear', version: '1.0.0', tag: '5f0c2a91' };
export const ONSET_S = 4;

const hex = (seed, length) => createHash('sha256').update(String(seed)).digest('hex').slice(0, length);
const uuid = (seed) => hex(seed, 32).replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, '$1-$2-7$3-8$4-$5');

const PLACES = [
  ['ridge-north', 'letaba', -23.842, 31.571],
  ['river-bend', 'letaba', -23.861, 31.612],
  ['old-airstrip', 'letaba', -23.885, 31.548],
  ['marula-gate', 'letaba', -23.871, 31.583],
  ['kopje-west', 'letaba', -23.853, 31.531],
  ['salt-lick', 'olifants', -23.902, 31.601],
  ['fever-tree-camp', 'olifants', -23.893, 31.642],
];

function stations(now) {
  return PLACES.map(([name, site, lat, lon], index) => ({
    id: uuid(name),
    name,
    site_id: site,
    state: 'online',
    last_seen: new Date(now - 4_000 - index * 7_000).toISOString(),
    agent_version: '0.1.0',
    model: MODEL,
    location: { lat, lon },
    telemetry: {
      time: new Date(now - 4_000 - index * 7_000).toISOString(),
      uptime_s: 183_000 + index * 41_111,
      windows: 380_000 + index,
      inference_p50_us: 11_800 + index * 430,
      inference_p99_us: 15_100 + index * 770,
      dropped_samples: 0,
      gaps: 0,
      outbox_records: 0,
      outbox_oldest_s: 0,
      clips_pending: 0,
      disk_free_mib: 21_400 - index * 1_300,
      cpu_temperature_c: 51.2 + index,
      noise_floor_dbfs: -58.3 + index * 1.7,
      source: 'healthy',
    },
  }));
}

/** A server that tests can drive. `seed` events exist from the start, `sick` makes stations ail. */
export async function startFakeServer({ port = 0, alerts = 9, others = 26, sick = true, csp = CSP } = {}) {
  const now = Date.now();
  const state = { models: fakeModels(now), jobs: [], releases: fakeReleases(now), rollouts: [], missed: [], events: new Map(), devices: new Map(), clips: new Map(), streams: new Set(), log: [], lastId: 0, broken: false };
  for (const device of stations(now)) state.devices.set(device.id, device);
  if (sick) ail(state, now);

  /** Makes an event of a station; `over` replaces fields. */
  function makeEvent(over = {}) {
    const { station = 0, ...fields } = over;
    const [name, site, lat, lon] = PLACES[station];
    const number = state.events.size + state.log.length + 1;
    const time = fields.time ?? new Date().toISOString();
    return {
      id: uuid(`event ${number} ${name} ${time}`),
      device_id: uuid(name),
      device_name: name,
      site_id: site,
      class: 'gun_shot',
      alert: true,
      canary: false,
      score: 0.94,
      time,
      time_quality: 'network',
      received_at: new Date(Date.parse(time) + 1_640).toISOString(),
      duration_ms: null,
      decided_after_ms: null,
      windows: 2,
      level_dbfs: -19.4,
      noise_floor_dbfs: null,
      scores: null,
      model: MODEL,
      state: 'open',
      location: { lat, lon },
      clip: null,
      ...fields,
    };
  }

  /** The event as it is when it is over. */
  function complete(event, { floor = -53.2, scores, durationMs = 1_440 } = {}) {
    const rest = (1 - event.score) / 4;
    return {
      ...event,
      windows: event.windows + 1,
      duration_ms: durationMs,
      decided_after_ms: 1_210,
      noise_floor_dbfs: floor,
      scores: scores ?? { gun_shot: event.score, guineafowl: rest * 0.4, dog: rest * 0.9, vehicle: rest * 1.1, silence: 0.001, background: rest * 1.6 },
    };
  }

  function withClip(event, status, sound = {}) {
    const id = event.id;
    if (!state.clips.has(id)) {
      const seed = parseInt(id.slice(0, 6), 16);
      const make = () => flac(forest({ seed, onset: ONSET_S, ...sound }));
      state.clips.set(id, { make, bytes: null });
    }
    return {
      ...event,
      clip: { id, url: `/api/v1/clips/${id}/data`, status, bytes: 320_562, duration_s: 10, format: 'flac', sha256: hex(id, 64) },
    };
  }

  /** Stores an event and, unless silent, tells the live clients. */
  function publish(type, data, { silent = false } = {}) {
    if (type === 'device') state.devices.set(data.id, data);
    else if (type === 'training') state.jobs = [data, ...state.jobs.filter((job) => job.id !== data.id)];
    else state.events.set(data.id, data);
    if (silent) return;
    state.lastId += 1;
    const entry = { id: state.lastId, text: `event: ${type}\nid: ${state.lastId}\ndata: ${JSON.stringify(data)}\n\n` };
    state.log.push(entry);
    for (const stream of state.streams) stream.write(entry.text);
  }

  seedHistory({ makeEvent, complete, withClip, publish }, now, alerts, others);

  const server = createServer((request, response) => {
    answer(request, response, state, csp).catch((cause) => {
      console.error(cause);
      if (!response.headersSent) problem(response, 500, 'Internal error', String(cause));
    });
  });
  async function listen() {
    await new Promise((resolve, reject) => server.listen(port, '127.0.0.1', resolve).once('error', reject));
    port = server.address().port;
  }
  await listen();

  return {
    url: `http://127.0.0.1:${port}/`,
    state,
    makeEvent,
    complete,
    withClip,
    publish,
    /** Makes a clip's bytes something else. */
    setClip: (id, bytes) => state.clips.set(id, { make: () => bytes, bytes }),
    /** Closes every connection and the port, as a stopped server does. */
    async stop() {
      for (const stream of state.streams) stream.destroy();
      state.streams.clear();
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
    restart: listen,
  };
}

function ail(state, now) {
  const change = (name, top, telemetry) => {
    const device = state.devices.get(uuid(name));
    state.devices.set(device.id, { ...device, ...top, telemetry: { ...device.telemetry, ...telemetry } });
  };
  const hours = (count) => new Date(now - count * 3_600_000).toISOString();
  change('old-airstrip', { state: 'offline', last_seen: hours(3.4) }, { time: hours(3.4) });
  change('fever-tree-camp', {}, { source: 'recovering', noise_floor_dbfs: -100, gaps: 14 });
  change('kopje-west', {}, { outbox_records: 12, outbox_oldest_s: 940, clips_pending: 3, disk_free_mib: 412 });
}

function seedHistory({ makeEvent, complete, withClip, publish }, now, alerts, others) {
  const next = random(7);
  const quiet = { silent: true };
  for (let n = 0; n < alerts; n++) {
    const station = [1, 3, 0, 5, 1, 4, 0, 3, 1][n % 9];
    const minutes = [0.7, 19, 47, 130, 318, 640, 1_130, 1_500, 1_760][n % 9] + Math.floor(n / 9) * 2_000;
    const time = new Date(now - minutes * 60_000 - Math.floor(next() * 900)).toISOString();
    const score = [0.97, 0.91, 0.995, 0.83, 0.96, 0.88, 0.93, 0.79, 0.99][n % 9];
    const distance = [260, 700, 140, 1_100, 300, 800, 400, 1_500, 180][n % 9];
    const level = Math.min(-3, -12 - 20 * Math.log10(distance / 140));
    let event = makeEvent({ station, time, score, level_dbfs: level, windows: 1 + Math.floor(next() * 3) });
    event = complete(event, { floor: -52 - next() * 8, durationMs: 960 + Math.floor(next() * 3) * 480 });
    const status = n === 1 ? 'uploading' : n === 4 ? 'expected' : 'stored';
    event = withClip(event, status, { distance });
    if (n === 3) event.time_quality = 'free-running';
    if (n === 5) event.received_at = new Date(Date.parse(time) + 2_760_000).toISOString();
    if (n === 6) event.canary = true;
    publish('alert', event, quiet);
  }
  const classes = ['guineafowl', 'dog', 'vehicle', 'guineafowl', 'vehicle'];
  for (let n = 0; n < others; n++) {
    const name = classes[n % classes.length];
    const score = 0.62 + next() * 0.36;
    const time = new Date(now - (6 + n * 53 + next() * 40) * 60_000).toISOString();
    let event = makeEvent({ station: Math.floor(next() * 5), time, score, class: name, alert: false, level_dbfs: -34 + next() * 12 });
    const rest = (1 - score) / 3;
    event = complete(event, { floor: -55 - next() * 6, durationMs: 1_000 + next() * 4_000, scores: { gun_shot: rest * 0.3, guineafowl: rest, dog: rest, vehicle: rest * 0.6, background: rest, silence: 0.002, [name]: score } });
    publish('detection', withClip(event, 'stored', { kind: name === 'dog' ? 'barks' : 'none' }), quiet);
  }
}

async function answer(request, response, state, csp) {
  const url = new URL(request.url, 'http://fake');
  const path = url.pathname;
  response.setHeader('X-Content-Type-Options', 'nosniff');
  if (path === '/retrain') {
    return json(response, { success: true, message: 'Training on 120 new samples has been queued.', status: 'started', job_id: uuid('job') });
  }
  if (!path.startsWith('/api/')) return file(response, path, csp);
  if (state.broken) return problem(response, 503, 'Service unavailable', 'The database does not answer.');

  const query = Object.fromEntries(url.searchParams);
  const [, , , kind, id] = path.split('/');
  if (path === '/api/v1/live') return live(request, response, state);
  if (path === '/api/v1/system') {
    return json(response, { version: '0.1.0', model: { ...MODEL, backbone: 'yamnet' }, database: 'sqlite', broker: 'embedded', broker_connected: true, uptime_s: 262_113 });
  }
  if (request.method !== 'GET') return change(request, response, state, path);
  if (kind === 'review') {
    const waiting = [...state.events.values()].filter((event) => !event.verdict && !event.canary && event.clip?.status === 'stored');
    const items = waiting.slice(0, Number(query.limit ?? 50)).map((event) => ({ event, uncertainty: 1 - event.score, novelty: 1 }));
    return json(response, { items, waiting: waiting.length });
  }
  if (kind === 'missed-shots') return json(response, { items: state.missed, next: null });
  if (kind === 'releases') return json(response, { items: state.releases, next: null });
  if (kind === 'rollouts') return json(response, { items: state.rollouts, next: null });
  if (kind === 'jobs') return json(response, { items: state.jobs, next: null });
  if (kind === 'models') return json(response, state.models);
  if (kind === 'devices' && path.endsWith('/updates')) {
    const step = (name, minutes, over) => ({ release: 'gunshot-0.0.3', counter: 9, step: name, code: null, reason: null, at: new Date(Date.now() - minutes * 60_000).toISOString(), received_at: new Date().toISOString(), ...over });
    return json(response, { items: [step('refused', 1, { code: 'golden_clips', reason: 'the golden sounds score 0.300 off' }), step('verified', 2), step('accepted', 3)] });
  }
  if (kind === 'devices') refreshReports(state);
  if (kind === 'devices') return id ? one(response, state.devices.get(id)) : json(response, { items: [...state.devices.values()] });
  if (kind === 'clips') return clip(response, request, state, id);
  if (kind === 'alerts' || kind === 'detections') {
    return id ? one(response, state.events.get(id)) : json(response, page(state, query, kind === 'alerts'));
  }
  return problem(response, 404, 'Not found', `No such path: ${path}`);
}

/** Two versions, the older one serves. */
function fakeModels(now) {
  const version = (seed, over) => ({ id: uuid(seed), name: 'forest-ear', tag: hex(seed, 8), serving: false, created_at: new Date(now - 86_400_000).toISOString(), created_by: 'server', gate: null, lineage: {}, ...over });
  const items = [
    version('model 2', { version: '0.0.2', origin: 'trained', gate: fakeGate(false) }),
    version('model 1', { version: '1.0.0', origin: 'builtin', serving: true }),
  ];
  const changes = [{ version_id: items[1].id, before_id: null, cause: 'start', reason: 'the server began with forest-ear 1.0.0', by: 'server', at: new Date(now - 86_400_000).toISOString() }];
  return { items, next: null, changes };
}

/** What the gate says of two models. */
export function fakeGate(passed) {
  const line = (version, hits, alarms) => ({ version, sha256: hex(version, 64), hits, recall: hits / 40, false_alarms: alarms, recent_false_alarms: 0 });
  return {
    passed,
    sentence: passed ? 'forest-ear 0.0.3 takes over: of 40 shots of the test set it hears 39 (38 before).' : 'forest-ear 1.0.0 stays: forest-ear 0.0.2 raises 3 false alarms on the test set where there are 1 now.',
    positives: 40,
    positive_recordings: 21,
    negatives: 60,
    recent: 120,
    incumbent: line('forest-ear 1.0.0', 38, 1),
    candidate: line('forest-ear 0.0.2', 39, passed ? 0 : 3),
    interval: [-0.05, 0.05],
    flips: 3,
  };
}

/** What people say and choose. */
async function change(request, response, state, path) {
  let text = '';
  for await (const part of request) text += part;
  const body = text ? JSON.parse(text) : {};
  const [, , , kind, id, what] = path.split('/');
  state.asked ??= [];
  state.asked.push({ method: request.method, path, body });
  if (state.forbidden) return problem(response, 403, 'Forbidden', 'Your role does not allow this.');
  if (kind === 'missed-shots') {
    if (what === 'verdict') {
      const pull = state.missed.flatMap((shot) => shot.stations).find((known) => known.id === id);
      Object.assign(pull, { state: body.heard ? 'heard' : 'not_heard' });
      return json(response, pull);
    }
    const near = [...state.devices.values()].filter((device) => body.location || device.site_id === body.site).slice(0, 3);
    const stations = near.map((device, place) => ({ id: uuid(`pull ${device.id}`), device_id: device.id, device_name: device.name, site_id: device.site_id, state: ['arrived', 'asked', 'refused'][place], url: `/api/v1/clips/${uuid(`pull ${device.id}`)}/data` }));
    const shot = { id: uuid(`missed ${state.missed.length}`), time: body.time, site: body.site ?? null, note: body.note ?? null, reported_by: 'user:anna', stations };
    state.missed.unshift(shot);
    return json(response, shot);
  }
  if (what === 'verdict') {
    const event = state.events.get(id);
    if (!event) return problem(response, 404, 'Not found', 'No such event.');
    const verdict = request.method === 'DELETE' ? null : { cause: null, class: null, note: null, ...body, by: 'user:anna', at: new Date().toISOString() };
    const judged = { ...event, verdict };
    state.events.set(id, judged);
    return json(response, judged);
  }
  if (kind === 'models') {
    const target = id === 'rollback' ? state.models.changes[0].before_id : id;
    const changed = { version_id: target, before_id: state.models.changes[0].version_id, cause: 'person', reason: body.reason ?? '', by: 'user:anna', at: new Date().toISOString() };
    state.models = { ...state.models, items: state.models.items.map((version) => ({ ...version, serving: version.id === target })), changes: [changed, ...state.models.changes] };
    return json(response, changed);
  }
  if (kind === 'rollouts') {
    if (!id) state.rollouts.unshift(fakeRollout(state.releases.find((release) => release.id === body.release_id), body.revert_release_id));
    const rollout = state.rollouts.find((known) => !id || known.id === id);
    const states = { start: 'running', pause: 'paused', resume: 'running', halt: 'halted', rollback: 'rolled_back' };
    if (what) Object.assign(rollout, { state: states[what], cohort: Math.max(1, rollout.cohort), reason: what === 'halt' || what === 'rollback' ? 'user:anna decided so' : null, updated_at: new Date().toISOString() });
    return json(response, rollout);
  }
  return problem(response, 404, 'Not found', `No such path: ${path}`);
}

function fakeReleases(now) {
  const release = (counter, version, over) => ({ id: uuid(`release-${counter}-${version}`), name: 'gunshot', version, counter, expires_at: new Date(now + 9e9).toISOString(), site: null, devices: [], replaces: null, bytes: 400_000, created_at: new Date(now - counter * 3_600_000).toISOString(), created_by: 'user:anna', ...over });
  return [release(8, '0.0.2', { replaces: { name: 'gunshot', version: '0.0.3', counter: 9 } }), release(9, '0.0.3', {})];
}

function fakeRollout(release, revert) {
  const cohort = (percent, devices) => ({ plan: { percent }, devices, steps: { waiting: devices }, reached_at: null });
  return { id: uuid('rollout'), release, revert: revert ? { ...release, id: revert } : null, state: 'draft', reason: null, cohort: 0, cohorts: [cohort(10, 1), cohort(50, 3), cohort(100, 3)], created_at: new Date().toISOString(), created_by: 'user:anna', updated_at: new Date().toISOString() };
}

/** Stations that are up report every few seconds. */
function refreshReports(state) {
  for (const device of state.devices.values()) {
    if (device.state !== 'online' || device.telemetry === null) continue;
    device.last_seen = new Date(Date.now() - 2_000 - parseInt(device.id.slice(0, 4), 16) % 40_000).toISOString();
    device.telemetry.time = device.last_seen;
  }
}

function page(state, query, onlyAlerts) {
  const limit = Number(query.limit ?? 50);
  const start = Number(query.cursor ?? 0);
  const events = [...state.events.values()]
    .filter((event) => !onlyAlerts || event.alert)
    .filter((event) => !query.site || event.site_id === query.site)
    .filter((event) => !query.device || event.device_id === query.device)
    .filter((event) => !query.class || event.class === query.class)
    .filter((event) => !query.since || event.time >= query.since)
    .sort((a, b) => (a.time < b.time ? 1 : -1));
  const items = events.slice(start, start + limit);
  return { items, next: start + limit < events.length ? String(start + limit) : null };
}

function live(request, response, state) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  response.write(': welcome\n\n');
  const last = Number(request.headers['last-event-id'] ?? Number.NaN);
  for (const entry of state.log) if (entry.id > last) response.write(entry.text);
  state.streams.add(response);
  const beat = setInterval(() => response.write(': beat\n\n'), 15_000);
  response.on('close', () => {
    clearInterval(beat);
    state.streams.delete(response);
  });
}

function clip(response, request, state, id) {
  const entry = state.clips.get(id);
  const stored = state.events.get(id)?.clip?.status === 'stored';
  if (!entry || !stored) return problem(response, 404, 'Not found', 'This clip has not been uploaded yet.');
  entry.bytes ??= entry.make();
  const head = { 'Content-Type': 'audio/flac', 'Accept-Ranges': 'bytes' };
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  if (!range) {
    response.writeHead(200, { ...head, 'Content-Length': entry.bytes.length });
    return response.end(entry.bytes);
  }
  const from = Number(range[1]);
  const to = range[2] ? Number(range[2]) : entry.bytes.length - 1;
  response.writeHead(206, { ...head, 'Content-Range': `bytes ${from}-${to}/${entry.bytes.length}` });
  return response.end(entry.bytes.subarray(from, to + 1));
}

async function file(response, path, csp) {
  const name = normalize(path === '/' ? '/index.html' : path);
  try {
    const bytes = await readFile(join(DIST, name));
    response.writeHead(200, { 'Content-Type': TYPES[extname(name)] ?? 'application/octet-stream', 'Content-Security-Policy': csp, 'Referrer-Policy': 'no-referrer' });
    response.end(bytes);
  } catch {
    problem(response, 404, 'Not found', `No such file: ${path}`);
  }
}

function one(response, item) {
  return item ? json(response, item) : problem(response, 404, 'Not found', 'No such id.');
}

function json(response, body) {
  response.writeHead(200, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(body));
}

function problem(response, status, title, detail) {
  response.writeHead(status, { 'Content-Type': 'application/problem+json' });
  response.end(JSON.stringify({ type: 'about:blank', title, status, detail }));
}

/** Arrivals as in the field: alert, then detection, then the clip. */
export async function arrive(server, over = {}, pause = 1_500) {
  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const event = server.makeEvent(over);
  server.publish('alert', event);
  await wait(pause);
  const done = server.complete(event);
  server.publish('detection', server.withClip(done, 'expected'));
  await wait(pause);
  server.publish('clip', server.withClip(done, 'uploading'));
  await wait(pause);
  server.publish('clip', server.withClip(done, 'stored'));
  return event;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const option = (name) => process.argv[process.argv.indexOf(`--${name}`) + 1];
  const has = (name) => process.argv.includes(`--${name}`);
  const server = await startFakeServer({ port: has('port') ? Number(option('port')) : 8000, alerts: has('alerts') ? Number(option('alerts')) : 9, others: has('alerts') ? Number(option('alerts')) : 26 });
  console.log(server.url);
  if (has('live')) {
    for (let n = 0; ; n++) {
      await new Promise((resolve) => setTimeout(resolve, 6_000));
      await arrive(server, { station: n % PLACES.length, score: 0.8 + ((n * 7) % 20) / 100 });
    }
  }
}
