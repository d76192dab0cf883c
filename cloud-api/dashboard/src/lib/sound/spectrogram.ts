// From samples to a picture: time to the right, mel-spaced frequency upwards, dB as colour.

import type { Colour } from './colours';
import { PowerSpectrum } from './fft';

/** 32 ms at 16 kHz: resolves a bird's syllables and still places a blast within a few ms. */
const FRAME_S = 0.032;
const HOP_S = 0.004;
/** Long clips get a longer hop instead of more memory. */
const MAX_COLUMNS = 8_000;
const LOWEST_HZ = 50;
const SILENCE_DB = -120;

export interface Spectrogram {
  /** Column after column, `bins` values each, dB of a full-scale sine. */
  db: Float32Array;
  columns: number;
  bins: number;
  /** Seconds between columns; column 0 is centred on 0 s. */
  hop: number;
  duration: number;
  nyquist: number;
  /** Levels that are drawn darkest and brightest, dB. */
  floor: number;
  ceiling: number;
}

/** What part of a spectrogram is drawn, in seconds. */
export interface TimeRange {
  from: number;
  to: number;
}

export function spectrogram(samples: Float32Array, rate: number): Spectrogram {
  const size = 2 ** Math.ceil(Math.log2(FRAME_S * rate));
  const hopLength = Math.max(Math.round(HOP_S * rate), Math.ceil(samples.length / MAX_COLUMNS));
  const columns = Math.max(1, Math.ceil(samples.length / hopLength));
  const bins = size / 2 + 1;
  const db = new Float32Array(columns * bins);
  const spectrum = new PowerSpectrum(size);
  for (let column = 0; column < columns; column++) {
    spectrum.measure(samples, column * hopLength - size / 2, db, column * bins);
  }
  for (let i = 0; i < db.length; i++) db[i] = Math.max(SILENCE_DB, 10 * Math.log10(db[i]! + 1e-13));
  const [floor, ceiling] = levels(db);
  return { db, columns, bins, hop: hopLength / rate, duration: samples.length / rate, nyquist: rate / 2, floor, ceiling };
}

/** Darkest just over the usual background, brightest at the loudest: 35 to 75 dB apart. */
function levels(db: Float32Array): [number, number] {
  const step = Math.max(1, Math.floor(db.length / 50_000));
  const sample = Float32Array.from({ length: Math.floor(db.length / step) }, (_, i) => db[i * step]!).sort();
  const at = (quantile: number) => sample[Math.floor(quantile * (sample.length - 1))] ?? SILENCE_DB;
  const ceiling = at(0.9995);
  const floor = Math.min(ceiling - 35, Math.max(ceiling - 75, at(0.4)));
  return [floor, ceiling];
}

const mel = (hertz: number) => 2595 * Math.log10(1 + hertz / 700);
const fromMel = (value: number) => 700 * (10 ** (value / 2595) - 1);

/** Height of a frequency, 0 (lowest) to 1 (highest drawn). */
export function heightOf(hertz: number, nyquist: number): number {
  return (mel(hertz) - mel(LOWEST_HZ)) / (mel(nyquist) - mel(LOWEST_HZ));
}

/** Frequencies worth a label, low to high, in Hz. */
export function frequencyTicks(nyquist: number): number[] {
  return [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000].filter((hertz) => hertz <= nyquist);
}

/** Round times within `range`, at least `gap` (0 to 1 of the width) apart. */
export function timeTicks(range: TimeRange, gap: number): number[] {
  const least = (range.to - range.from) * gap;
  const step = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60].find((candidate) => candidate >= least) ?? 300;
  const ticks: number[] = [];
  for (let n = Math.ceil(range.from / step); n * step <= range.to + 1e-9; n++) ticks.push(n * step);
  return ticks;
}

/** Draws `range` into the whole of `canvas`, in its own pixels. */
export function draw(canvas: HTMLCanvasElement, picture: Spectrogram, range: TimeRange, colours: Colour[]): void {
  const { width, height } = canvas;
  const context = canvas.getContext('2d');
  if (!context || width === 0 || height === 0) return;
  const image = context.createImageData(width, height);
  const palette = Uint32Array.from(colours, ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r);
  const pixels = new Uint32Array(image.data.buffer);
  const binOfRow = Float32Array.from({ length: height }, (_, row) => {
    const top = mel(picture.nyquist);
    const low = mel(LOWEST_HZ);
    const hertz = fromMel(low + (1 - (row + 0.5) / height) * (top - low));
    return (hertz / picture.nyquist) * (picture.bins - 1);
  });
  const column = new Float32Array(picture.bins);
  const scale = (palette.length - 1) / (picture.ceiling - picture.floor);
  const perPixel = (range.to - range.from) / width / picture.hop;
  for (let x = 0; x < width; x++) {
    gather(picture, range.from / picture.hop + (x + 0.5) * perPixel, perPixel, column);
    for (let row = 0; row < height; row++) {
      const bin = binOfRow[row]!;
      const below = Math.floor(bin);
      const low = column[below]!;
      const level = low + ((column[below + 1] ?? low) - low) * (bin - below);
      const index = Math.round((level - picture.floor) * scale);
      pixels[row * width + x] = palette[Math.max(0, Math.min(palette.length - 1, index))]!;
    }
  }
  context.putImageData(image, 0, 0);
}

/** The levels at column `centre`; over `width` columns their maximum, lest a blast vanish. */
function gather(picture: Spectrogram, centre: number, width: number, out: Float32Array): void {
  const { db, bins, columns } = picture;
  const clamp = (column: number) => Math.max(0, Math.min(columns - 1, column));
  if (width <= 1) {
    const left = clamp(Math.floor(centre));
    const right = clamp(left + 1);
    const part = Math.max(0, Math.min(1, centre - left));
    for (let bin = 0; bin < bins; bin++) {
      out[bin] = db[left * bins + bin]! * (1 - part) + db[right * bins + bin]! * part;
    }
    return;
  }
  const first = clamp(Math.floor(centre - width / 2));
  const last = clamp(Math.ceil(centre + width / 2) - 1);
  out.set(db.subarray(first * bins, (first + 1) * bins));
  for (let column = first + 1; column <= last; column++) {
    for (let bin = 0; bin < bins; bin++) out[bin] = Math.max(out[bin]!, db[column * bins + bin]!);
  }
}

/**
 * The first sharp attack: where the mean level over all bins rises, within 20 ms, by at least
 * three quarters of the most that it rises anywhere, in seconds. Null where nothing rises by 6 dB.
 */
export function firstAttack(picture: Spectrogram): number | null {
  const { db, bins, columns, hop } = picture;
  const mean = new Float32Array(columns);
  for (let column = 0; column < columns; column++) {
    let sum = 0;
    for (let bin = 0; bin < bins; bin++) sum += db[column * bins + bin]!;
    mean[column] = sum / bins;
  }
  const reach = Math.max(1, Math.round(0.02 / hop));
  const rise = mean.map((level, column) => (column < reach ? 0 : level - mean[column - reach]!));
  const enough = 0.75 * rise.reduce((most, value) => Math.max(most, value), 0);
  if (enough < 0.75 * 6) return null;
  let column = rise.findIndex((value) => value >= enough);
  while (column + 1 < columns && rise[column + 1]! > rise[column]!) column += 1;
  return (column - reach / 2) * hop;
}
