// Numbers and times as people read them. Times come in UTC and are shown in local time with zone.

const UNITS: [number, string][] = [
  [86_400, 'd'],
  [3_600, 'h'],
  [60, 'min'],
];

/** "12 s", "4 min", "3 h", "2 d". */
export function span(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  for (const [size, unit] of UNITS) if (s >= size) return `${Math.floor(s / size)} ${unit}`;
  return `${s} s`;
}

/** "just now", "12 s ago"; "in 4 min" for a clock that runs ahead. */
export function ago(time: string | number, now: number): string {
  const ms = now - (typeof time === 'number' ? time : Date.parse(time));
  if (Number.isNaN(ms)) return 'at an unknown time';
  if (ms < -30_000) return `in ${span(-ms / 1_000)}`;
  if (ms < 2_000) return 'just now';
  return `${span(ms / 1_000)} ago`;
}

const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const DAY = new Intl.DateTimeFormat('en-GB', { weekday: 'short', day: 'numeric', month: 'short', year: 'numeric' });
const SHORT_DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const ZONE = new Intl.DateTimeFormat('en-GB', { timeZoneName: 'short' });

export function zone(time: string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return '';
  return ZONE.formatToParts(date).find((part) => part.type === 'timeZoneName')?.value ?? '';
}

/** "14:03:22" in local time. */
export function clockTime(time: string | number): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? 'unknown time' : CLOCK.format(date);
}

/** "12 Oct". */
export function shortDay(time: string): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? '' : SHORT_DAY.format(date);
}

/** "Today", "Yesterday" or the date, in local time. */
export function dayName(time: string, now: number): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return 'Unknown day';
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (date.getTime() >= midnight + 86_400_000) return DAY.format(date);
  if (date.getTime() >= midnight) return 'Today';
  if (date.getTime() >= midnight - 86_400_000) return 'Yesterday';
  return DAY.format(date);
}

/** "Tue, 21 Oct 2025, 14:03:22". */
export function fullTime(time: string): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? 'unknown time' : `${DAY.format(date)}, ${CLOCK.format(date)}`;
}

/** "2025-10-21 12:03:22.413 UTC". */
export function utcTime(time: string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return time;
  return `${date.toISOString().replace('T', ' ').replace('Z', '')} UTC`;
}

export function percent(score: number): string {
  const value = score * 100;
  // 99.6 % must not read as certainty.
  return `${value > 99 && value < 100 ? 99 : Math.round(value)} %`;
}

export function decibels(value: number, unit = 'dB'): string {
  return `${Math.round(value).toString().replace('-', '−')} ${unit}`;
}

export function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`;
}

export function bytes(count: number): string {
  if (count < 1_000) return `${count} B`;
  if (count < 1_000_000) return `${Math.round(count / 1_000)} kB`;
  return `${(count / 1_000_000).toFixed(1)} MB`;
}

/** Free disk space: "812 MB", "14.2 GB". */
export function mebibytes(mib: number): string {
  return mib < 1_024 ? `${mib} MB` : `${(mib / 1_024).toFixed(1)} GB`;
}

/** "24.0193° S, 31.4850° E". */
export function position(lat: number, lon: number): string {
  const part = (value: number, plus: string, minus: string) =>
    `${Math.abs(value).toFixed(4)}° ${value < 0 ? minus : plus}`;
  return `${part(lat, 'N', 'S')}, ${part(lon, 'E', 'W')}`;
}
