// How a station is. Silence is never taken for health: a station that does not say that it hears
// counts as one that does not.

import type { Device } from './api';
import { ago, mebibytes, span } from './format';
import { SOURCE_WORDS } from './words';

export type Level = 'ok' | 'warn' | 'bad';

export interface Health {
  level: Level;
  /** One or two words. */
  word: string;
  /** What is wrong, worst first; empty when all is well. */
  reasons: string[];
}

/** Reports come every minute: three are missing. */
const REPORT_LATE_S = 200;
const REPORT_LOST_S = 600;
/** A microphone in the open never measures less: a cut cable or a muted input does. */
const DIGITAL_SILENCE_DBFS = -100;
/** Windows come every 0.48 s: what takes longer falls behind. */
const HOP_US = 480_000;
const HOT_C = 80;
const DISK_LOW_MIB = 500;
const OUTBOX_LATE_S = 120;

export function health(device: Device, now: number): Health {
  const { telemetry } = device;
  if (device.state !== 'online') {
    const seen = device.last_seen ? `Last seen ${ago(device.last_seen, now)}` : 'Never seen';
    return { level: 'bad', word: device.state === 'offline' ? 'Offline' : 'Unknown', reasons: [seen] };
  }
  if (!telemetry) return { level: 'warn', word: 'No report', reasons: ['Connected, but has not reported yet'] };

  const silent = (now - Date.parse(telemetry.time)) / 1_000;
  if (silent > REPORT_LOST_S) {
    return { level: 'bad', word: 'No report', reasons: [`Connected, but last reported ${span(silent)} ago`] };
  }
  if (telemetry.source === 'failed' || telemetry.source === 'recovering') {
    return { level: 'bad', word: 'Deaf', reasons: [SOURCE_WORDS[telemetry.source]] };
  }
  if (telemetry.source === 'ended') {
    return { level: 'warn', word: 'Not listening', reasons: [SOURCE_WORDS.ended] };
  }
  if (telemetry.source === 'healthy' && telemetry.noise_floor_dbfs <= DIGITAL_SILENCE_DBFS) {
    return { level: 'bad', word: 'Deaf', reasons: ['The microphone gives only digital silence'] };
  }

  const reasons: string[] = [];
  if (silent > REPORT_LATE_S) reasons.push(`Last report ${span(silent)} ago`);
  if (telemetry.inference_p99_us > HOP_US) reasons.push('Too slow: falls behind the sound');
  if (telemetry.outbox_records > 0 && telemetry.outbox_oldest_s > OUTBOX_LATE_S) {
    reasons.push(`${telemetry.outbox_records} records wait ${span(telemetry.outbox_oldest_s)} for delivery`);
  }
  if (telemetry.disk_free_mib < DISK_LOW_MIB) reasons.push(`Only ${mebibytes(telemetry.disk_free_mib)} of disk free`);
  if ((telemetry.cpu_temperature_c ?? 0) > HOT_C) reasons.push(`Processor at ${Math.round(telemetry.cpu_temperature_c ?? 0)} °C`);
  if (reasons.length > 0) return { level: 'warn', word: 'Attention', reasons };
  if (telemetry.source === 'starting') return { level: 'warn', word: 'Starting', reasons: [] };
  return { level: 'ok', word: 'Listening', reasons: [] };
}

const ORDER: Record<Level, number> = { bad: 0, warn: 1, ok: 2 };

/** Stations that need a person first, then by name. */
export function byUrgency(devices: Device[], now: number): Device[] {
  return [...devices].sort(
    (a, b) => ORDER[health(a, now).level] - ORDER[health(b, now).level] || a.name.localeCompare(b.name),
  );
}
