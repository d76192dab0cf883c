// The server's HTTP contract, and the one way to call it.

/** Which model heard something. `tag` is 8 hexadecimal digits. */
export interface ModelRef {
  name: string;
  version: string;
  tag: string;
}

/** WGS 84, degrees. */
export interface Location {
  lat: number;
  lon: number;
  uncertainty_m?: number | null;
}

export type TimeQuality = 'unknown' | 'free-running' | 'network' | 'gps';
export type ClipStatus = 'expected' | 'uploading' | 'stored';

/** The recording that proves an event; its bytes are at `url` once `stored`. */
export interface Clip {
  id: string;
  url: string;
  status: ClipStatus;
  bytes: number;
  duration_s: number;
  format: string;
  sha256: string;
  /** Where the event's onset lies in the sound, seconds, if the server knows. */
  onset_s?: number | null;
}

/** One event heard by one station. Levels in dBFS, `time` is the onset in UTC. */
export interface SoundEvent {
  id: string;
  device_id: string;
  /** Null until the station has said its name. */
  device_name: string | null;
  site_id: string;
  class: string;
  alert: boolean;
  /** Injected by the station to prove that it hears. */
  canary: boolean;
  /** 0 to 1. */
  score: number;
  time: string;
  time_quality: TimeQuality;
  received_at: string;
  duration_ms: number | null;
  decided_after_ms: number | null;
  windows: number;
  level_dbfs: number;
  noise_floor_dbfs: number | null;
  scores: Record<string, number> | null;
  model: ModelRef;
  state: string;
  location: Location | null;
  clip: Clip | null;
  /** What a person said of it. */
  verdict?: Verdict | null;
}

export type VerdictWord = 'confirmed' | 'rejected' | 'relabelled';

/** What a person said of an event. */
export interface Verdict {
  verdict: VerdictWord;
  cause: string | null;
  class: string | null;
  note: string | null;
  by: string;
  at: string;
}

/** An event that should be judged, with why. */
export interface ReviewItem {
  event: SoundEvent;
  /** 0 sure, 1 a toss. */
  uncertainty: number;
  novelty: number;
}

/** What a station was asked for after a shot that none told of. */
export interface Pull {
  id: string;
  device_id: string;
  device_name: string | null;
  site_id: string;
  state: 'waiting' | 'asked' | 'refused' | 'uploading' | 'arrived' | 'heard' | 'not_heard';
  /** Where the recording is. */
  url: string;
}

/** A shot that somebody heard and no station told of. */
export interface MissedShot {
  id: string;
  time: string;
  site: string | null;
  note: string | null;
  reported_by: string;
  stations: Pull[];
}

/** How far a training is. */
export interface Training {
  stage: 'gather' | 'features' | 'folds' | 'head' | 'gate';
  done: number;
  all: number;
  epoch?: number;
  loss?: number;
  val_loss?: number;
  left_s?: number;
}

/** What the gate measured of one model. */
export interface GateLine {
  version: string;
  hits: number;
  recall: number;
  false_alarms: number;
  recent_false_alarms: number;
}

/** What the gate decided. */
export interface Gate {
  passed: boolean;
  waits?: boolean;
  sentence: string;
  positives: number;
  positive_recordings: number;
  negatives: number;
  recent: number;
  incumbent: GateLine;
  candidate: GateLine;
  interval: [number, number] | null;
  flips: number;
}

export interface Job {
  id: string;
  state: 'queued' | 'running' | 'succeeded' | 'failed';
  created_at: string;
  finished_at: string | null;
  progress: string | null;
  training: Training | null;
  result: { samples?: number; trigger_reason?: string; version?: string; gate?: Gate | null } | null;
  error: string | null;
}

export interface ModelVersion {
  id: string;
  name: string;
  version: string;
  tag: string;
  serving: boolean;
  origin: 'builtin' | 'configured' | 'trained' | 'imported';
  created_at: string;
  created_by: string;
  gate: Gate | null;
  /** Releases in which somebody signed exactly this bundle for stations. */
  releases?: { id: string; version: string; counter: number; keys: string[] }[];
}

/** A change of the version that serves. */
export interface ModelChange {
  version_id: string;
  before_id: string | null;
  cause: string;
  reason: string;
  by: string;
  at: string;
}

export interface ModelList extends Page<ModelVersion> {
  changes: ModelChange[];
}

export type SourceState = 'starting' | 'healthy' | 'recovering' | 'failed' | 'ended';

/** A station's last minute report. */
export interface Telemetry {
  time: string;
  uptime_s: number;
  windows: number;
  inference_p50_us: number;
  inference_p99_us: number;
  dropped_samples: number;
  gaps: number;
  outbox_records: number;
  outbox_oldest_s: number;
  clips_pending: number;
  disk_free_mib: number;
  cpu_temperature_c: number | null;
  noise_floor_dbfs: number;
  source: SourceState;
}

/** How a station said it is when it last told. */
export interface Health {
  last_verified: string | null;
  source_faults: string[];
  time_quality: string;
  clock_offset_ms: number | null;
  canary_score: number | null;
  canary_threshold: number | null;
  power_limits: string[];
  supply_v: number | null;
  losses: Record<string, number>;
}

export interface Device {
  id: string;
  name: string;
  site_id: string;
  state: 'online' | 'offline' | 'unknown';
  last_seen: string | null;
  agent_version: string | null;
  model: ModelRef | null;
  location: Location | null;
  telemetry: Telemetry | null;
  health?: Health | null;
}

export interface SystemInfo {
  version: string;
  model: (ModelRef & { backbone: string }) | null;
  database: string;
  broker: string;
  broker_connected: boolean;
  uptime_s: number;
}

/** A page of a list, newest first; `next` is the cursor of the following one. */
export interface Page<T> {
  items: T[];
  next?: string | null;
}

export type Query = Record<string, string | number | null | undefined>;

/** A call that gave no usable answer; `status` is 0 when the server was not reached. */
export class ApiError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
  }

  get unreachable(): boolean {
    return this.status === 0;
  }
}

const TIMEOUT_MS = 15_000;

/** Milliseconds that the server's clock is ahead of this computer's, by its last `Date`. */
let serverAheadMs = 0;

/** Now by the server's clock. Small differences are transport and rounding: they are ignored. */
export function serverNow(): number {
  return Date.now() + (Math.abs(serverAheadMs) > 5_000 ? serverAheadMs : 0);
}

/** GETs `path` with `query`. Throws only {@link ApiError}. */
export async function getJson<T>(path: string, query: Query = {}): Promise<T> {
  const response = await request(withQuery(path, query));
  try {
    return (await response.json()) as T;
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw new ApiError(0, 'The connection to the server broke.');
    throw new ApiError(response.status, 'The server sent an answer that is not JSON.');
  }
}

/** Sends JSON, or nothing, and reads the JSON that comes back. Throws only {@link ApiError}. */
export async function sendJson<T>(method: 'POST' | 'PUT' | 'DELETE', path: string, body?: unknown, timeoutMs = TIMEOUT_MS): Promise<T> {
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.headers = { 'Content-Type': 'application/json' };
    init.body = JSON.stringify(body);
  }
  const response = await request(path, timeoutMs, init);
  try {
    return (await response.json()) as T;
  } catch {
    throw new ApiError(response.status, 'The server sent an answer that is not JSON.');
  }
}

/** GETs the bytes of a clip. Throws only {@link ApiError}. */
export async function getBytes(url: string): Promise<ArrayBuffer> {
  const response = await request(url, 60_000);
  try {
    return await response.arrayBuffer();
  } catch {
    throw new ApiError(0, 'The connection broke while the recording was loading.');
  }
}

async function request(url: string, timeoutMs = TIMEOUT_MS, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { ...init, signal: AbortSignal.timeout(timeoutMs) });
  } catch (cause) {
    const late = cause instanceof DOMException && cause.name === 'TimeoutError';
    throw new ApiError(0, late ? 'The server does not answer.' : 'The server cannot be reached.');
  }
  const date = Date.parse(response.headers.get('date') ?? '');
  if (!Number.isNaN(date)) serverAheadMs = date - Date.now();
  if (!response.ok) throw new ApiError(response.status, await problemText(response));
  return response;
}

/** The human part of an RFC 9457 answer. */
async function problemText(response: Response): Promise<string> {
  try {
    const problem = (await response.json()) as { title?: string; detail?: string };
    const text = problem.detail ?? problem.title;
    if (text) return text;
  } catch {
    // Not a problem document: a proxy's page, say.
  }
  return `The server answered ${response.status}.`;
}

function withQuery(path: string, query: Query): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== '') params.set(key, String(value));
  }
  const text = params.toString();
  return text ? `${path}?${text}` : path;
}
