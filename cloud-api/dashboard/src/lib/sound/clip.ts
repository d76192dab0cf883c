// A clip's bytes, decoded to samples at the rate it was recorded with.

import { ApiError, getBytes, type Clip } from '../api';
import { firstAttack, spectrogram, type Spectrogram } from './spectrogram';

/** What stations record at; browsers accept 8 to 96 kHz in decoding. */
const USUAL_RATE = 16_000;
const KEPT = 6;

export interface Recording {
  buffer: AudioBuffer;
  samples: Float32Array;
  picture: Spectrogram;
  /** Where the sound that raised the event begins, seconds; null where nothing stands out. */
  onset: number | null;
  /** The onset was measured here, not told by the station. */
  estimated: boolean;
}

/** The recording cannot be shown; the message says why in the user's words. */
export class ClipError extends Error {
  /** Trying again may help. */
  readonly retry: boolean;

  constructor(message: string, retry: boolean) {
    super(message);
    this.name = 'ClipError';
    this.retry = retry;
  }
}

const recordings = new Map<string, Promise<Recording>>();

/** The recording of a stored clip; the last few are kept. Throws only {@link ClipError}. */
export function recording(clip: Clip): Promise<Recording> {
  const key = `${clip.id} ${clip.sha256}`;
  const known = recordings.get(key);
  if (known) return known;
  const loading = load(clip);
  recordings.set(key, loading);
  loading.catch(() => recordings.delete(key));
  for (const oldest of recordings.keys()) {
    if (recordings.size <= KEPT) break;
    recordings.delete(oldest);
  }
  return loading;
}

async function load(clip: Clip): Promise<Recording> {
  let bytes: ArrayBuffer;
  try {
    bytes = await getBytes(clip.url);
  } catch (cause) {
    if (!(cause instanceof ApiError)) throw cause;
    if (cause.status === 404) throw new ClipError('The recording is not on the server.', true);
    throw new ClipError(cause.message, true);
  }
  const rate = recordedRate(new DataView(bytes));
  let buffer: AudioBuffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new ClipError(`This browser cannot decode the recording (${clip.format}, ${clip.bytes} bytes). Download it to listen.`, false);
  }
  const samples = buffer.getChannelData(0);
  const picture = spectrogram(samples, buffer.sampleRate);
  return { buffer, samples, picture, onset: clip.onset_s ?? firstAttack(picture), estimated: clip.onset_s == null };
}

/** The sample rate that a WAV or FLAC header states: decoding at another one would resample. */
export function recordedRate(bytes: DataView): number {
  const text = (at: number) =>
    at + 4 <= bytes.byteLength ? String.fromCharCode(...[0, 1, 2, 3].map((i) => bytes.getUint8(at + i))) : '';
  let rate = 0;
  if (text(0) === 'RIFF' && text(12) === 'fmt ' && bytes.byteLength >= 28) rate = bytes.getUint32(24, true);
  // 20 bits, 10 bytes into STREAMINFO, which begins behind "fLaC" and a block header of 4 bytes.
  if (text(0) === 'fLaC' && bytes.byteLength >= 22) rate = bytes.getUint32(18) >>> 12;
  return rate >= 8_000 && rate <= 96_000 ? rate : USUAL_RATE;
}
