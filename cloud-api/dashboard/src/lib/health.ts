// How a station is. Silence is never taken for health: a station that does not say that it hears
// counts as one that does not.

import type { Device } from './api';
import { mebibytes, span } from './format';
import { SOURCE_WORDS } from './words';

export type Level = 'ok' | 'warn' | 'bad';

export interface Health {
  level: Level;
  /** One or two words. */
  word: string;
  /** What is wrong, worst first; empty when all is well. */
  reasons: string[];
  /** It said within the last minutes that it hears. */
  listening: boolean;
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
    const silent = device.last_seen ? `Silent for ${span((now - Date.parse(device.last_seen)) / 1_000)}` : 'Never seen';
    return { level: 'bad', word: device.state === 'offline' ? 'Offline' : 'Silent', reasons: [silent], listening: false };
  }
  if (!telemetry) return deaf('warn', 'No report', 'Connected, but has not reported yet');

  const silent = (now - Date.parse(telemetry.time)) / 1_000;
  if (silent > REPORT_LOST_S) {
    return deaf('bad', 'No report', `Connected, but last reported ${span(silent)} ago`);
  }
  if (telemetry.source === 'failed' || telemetry.source === 'recovering') {
    return deaf('bad', 'Deaf', SOURCE_WORDS[telemetry.source]);
  }
  if (telemetry.source === 'ended') return deaf('warn', 'Not listening', SOURCE_WORDS.ended);
  if (telemetry.source === 'starting') return deaf('warn', 'Starting', 'The sound source is being opened');
  if (telemetry.noise_floor_dbfs <= DIGITAL_SILENCE_DBFS) {
    return deaf('bad', 'Deaf', 'The microphone gives only digital silence');
  }

  const reasons: string[] = [];
  if (silent > REPORT_LATE_S) reasons.push(`Last report ${span(silent)} ago`);
  if (telemetry.inference_p99_us > HOP_US) reasons.push('Too slow: falls behind the sound');
  if (telemetry.outbox_records > 0 && telemetry.outbox_oldest_s > OUTBOX_LATE_S) {
    reasons.push(`${telemetry.outbox_records} records wait ${span(telemetry.outbox_oldest_s)} for delivery`);
  }
  if (telemetry.disk_free_mib < DISK_LOW_MIB) reasons.push(`Only ${mebibytes(telemetry.disk_free_mib)} of disk free`);
  if ((telemetry.cpu_temperature_c ?? 0) > HOT_C) reasons.push(`Processor at ${Math.round(telemetry.cpu_temperature_c ?? 0)} °C`);
  if (reasons.length > 0) return { level: 'warn', word: 'Attention', reasons, listening: true };
  return { level: 'ok', word: 'Listening', reasons: [], listening: true };
}

function deaf(level: Level, word: string, reason: string): Health {
  return { level, word, reasons: [reason], listening: false };
}

const ORDER: Record<Level, number> = { bad: 0, warn: 1, ok: 2 };

/** Stations that need a person first, then by name. */
export function byUrgency(devices: Device[], now: number): Device[] {
  return [...devices].sort(
    (a, b) => ORDER[health(a, now).level] - ORDER[health(b, now).level] || a.name.localeCompare(b.name),
  );
}
