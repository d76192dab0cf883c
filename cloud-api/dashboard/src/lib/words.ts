// Words and icons for what stations report. A class that is not listed still gets both.

import type { Clip, SoundEvent, SourceState, TimeQuality } from './api';

export type IconName =
  | 'gunshot' | 'bird' | 'dog' | 'vehicle' | 'silence' | 'leaf' | 'saw' | 'voice' | 'wave'
  | 'play' | 'pause' | 'download' | 'plus' | 'minus' | 'back' | 'bell' | 'bell-off' | 'clock'
  | 'pin' | 'station' | 'list' | 'alert' | 'auto' | 'sun' | 'moon' | 'red' | 'check' | 'copy'
  | 'upload' | 'link-off' | 'follow' | 'volume' | 'zoom';

const CLASS_WORDS: Record<string, string> = {
  gun_shot: 'Gunshot',
  guineafowl: 'Guineafowl',
  dog: 'Dog',
  vehicle: 'Vehicle',
  silence: 'Silence',
  background: 'Background',
};

const CLASS_ICONS: [RegExp, IconName][] = [
  [/gun|shot|explosion/, 'gunshot'],
  [/fowl|bird|owl/, 'bird'],
  [/dog|bark/, 'dog'],
  [/vehicle|car|truck|engine|motor/, 'vehicle'],
  [/silence/, 'silence'],
  [/background|ambien|wind|rain/, 'leaf'],
  [/saw|axe|chop/, 'saw'],
  [/speech|voice|human/, 'voice'],
];

export function className(name: string): string {
  const words = name.replace(/[_-]+/g, ' ').trim();
  return CLASS_WORDS[name] ?? words.charAt(0).toUpperCase() + words.slice(1);
}

export function classIcon(name: string): IconName {
  return CLASS_ICONS.find(([pattern]) => pattern.test(name.toLowerCase()))?.[1] ?? 'wave';
}

/** What a person must know about the time of an event, or null if it can be trusted. */
export function timeWarning(quality: TimeQuality): string | null {
  if (quality === 'network' || quality === 'gps') return null;
  if (quality === 'free-running') return 'Station clock runs free: time may be off';
  return 'Station clock was not set: time unreliable';
}

export const TIME_SOURCE: Record<TimeQuality, string> = {
  gps: 'GPS clock',
  network: 'Network clock',
  'free-running': 'Free-running clock',
  unknown: 'Clock not set',
};

export const SOURCE_WORDS: Record<SourceState, string> = {
  starting: 'Starting',
  healthy: 'Hearing',
  recovering: 'No sound, reopening',
  failed: 'Microphone failed',
  ended: 'Recording ended',
};

/** The state of an event's recording in words; `ready` when it can be played. */
export interface ClipState {
  ready: boolean;
  /** One or two words. */
  short: string;
  title: string;
  detail: string;
}

export function clipState(clip: Clip | null): ClipState {
  if (!clip) {
    return { ready: false, short: 'No clip', title: 'No recording yet', detail: 'The station has not announced a recording of this event.' };
  }
  switch (clip.status) {
    case 'stored':
      return { ready: true, short: 'Recording', title: 'Recording', detail: '' };
    case 'uploading':
      return { ready: false, short: 'Uploading', title: 'Recording on its way', detail: 'The station is sending it. It appears here by itself.' };
    default:
      return { ready: false, short: 'Expected', title: 'Recording expected', detail: 'The station keeps it and sends it when the link allows. It appears here by itself.' };
  }
}

/** A station's name, or what there is of one before it has told it. */
export function stationName(event: SoundEvent): string {
  return event.device_name ?? `station ${event.device_id.slice(0, 8)}`;
}

/** How far the sound stood out, dB; null where the station measured no floor. */
export function aboveNoise(event: SoundEvent): number | null {
  return event.noise_floor_dbfs === null ? null : event.level_dbfs - event.noise_floor_dbfs;
}
