// Two tellings of one event, in whatever order they came.

import type { Clip, ClipStatus, SoundEvent } from './api';

const CLIP_RANK: Record<ClipStatus, number> = { expected: 1, uploading: 2, stored: 3 };
const rank = (clip: Clip | null) => (clip ? CLIP_RANK[clip.status] : 0);

/** `next` over `old`, keeping what only `old` knows: a fetched page may be older than the stream. */
export function merged(old: SoundEvent, next: SoundEvent): SoundEvent {
  return {
    ...next,
    windows: Math.max(old.windows, next.windows),
    duration_ms: next.duration_ms ?? old.duration_ms,
    decided_after_ms: next.decided_after_ms ?? old.decided_after_ms,
    noise_floor_dbfs: next.noise_floor_dbfs ?? old.noise_floor_dbfs,
    scores: next.scores ?? old.scores,
    location: next.location ?? old.location,
    ...verdict(old, next),
    clip: rank(next.clip) >= rank(old.clip) ? next.clip : old.clip,
  };
}

/** Taking a verdict back leaves none; only a telling of before a newer word is known to be old. */
function verdict(old: SoundEvent, next: SoundEvent): Pick<SoundEvent, 'verdict'> {
  if (next.verdict && old.verdict && next.verdict.at < old.verdict.at) return { verdict: old.verdict };
  return next.verdict === undefined ? {} : { verdict: next.verdict };
}
