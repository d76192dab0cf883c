// Sounds for development and tests: a forest at night with a gunshot in it, as 16-bit mono WAV.

const RATE = 16_000;

/** A small seeded generator (mulberry32): the same seed gives the same sound everywhere. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/**
 * `seconds` of forest; a shot begins at `onset` (null: none), `distance` in metres dulls it.
 * @returns {Float32Array}
 */
export function forest({ seed, seconds = 10, onset = 4, distance = 300, kind = 'shot' }) {
  const next = random(seed);
  const noise = () => next() * 2 - 1;
  const sound = new Float32Array(Math.round(seconds * RATE));

  // Wind: noise with most of its power at the bottom, swelling slowly.
  let low = 0;
  let lower = 0;
  for (let n = 0; n < sound.length; n++) {
    const t = n / RATE;
    low += 0.035 * (noise() - low);
    lower += 0.3 * (noise() - lower);
    sound[n] = low * 0.11 * (1 + 0.5 * Math.sin(t * 0.9 + seed)) + lower * 0.0022;
  }
  // Insects: a wavering band of chirps.
  const pitch = 4_600 + next() * 900;
  for (let n = 0; n < sound.length; n++) {
    const t = n / RATE;
    const pulse = Math.max(0, Math.sin(2 * Math.PI * 17 * t)) ** 6 * (0.5 + 0.5 * Math.sin(2 * Math.PI * 0.4 * t + seed));
    sound[n] += 0.0032 * pulse * Math.sin(2 * Math.PI * pitch * t + 0.5 * Math.sin(2 * Math.PI * 31 * t));
  }
  // Birds: short falling and rising whistles.
  for (let bird = 0; bird < 5; bird++) {
    const start = next() * (seconds - 1);
    const from = 1_800 + next() * 1_800;
    const to = from + (next() - 0.4) * 1_400;
    const syllables = 2 + Math.floor(next() * 4);
    for (let syllable = 0; syllable < syllables; syllable++) {
      let phase = 0;
      const begin = Math.round((start + syllable * 0.17) * RATE);
      const length = Math.round(0.1 * RATE);
      for (let n = 0; n < length && begin + n < sound.length; n++) {
        const part = n / length;
        phase += (2 * Math.PI * (from + (to - from) * part)) / RATE;
        sound[begin + n] += 0.006 * Math.sin(Math.PI * part) ** 2 * (Math.sin(phase) + 0.2 * Math.sin(2 * phase));
      }
    }
  }
  if (onset !== null && kind === 'shot') shot(sound, onset, distance, next);
  if (onset !== null && kind === 'barks') for (const after of [0, 0.45, 1.1]) bark(sound, onset + after, next);
  return sound;
}

/** Muzzle blast, echoes and the forest's reverberation; air and leaves take the highs away. */
function shot(sound, onset, distance, next) {
  const loudness = Math.min(0.9, 110 / distance);
  const dulling = Math.exp(-distance / 900);
  const echoes = [[0, 1], [0.013, 0.45], [0.09 + next() * 0.1, 0.3], [0.31 + next() * 0.2, 0.2], [0.72, 0.1]];
  for (const [after, strength] of echoes) {
    const start = Math.round((onset + after) * RATE);
    let smooth = 0;
    for (let n = 0; n < RATE * 1.6 && start + n < sound.length; n++) {
      const t = n / RATE;
      const blast = Math.exp(-t / 0.008) + 0.22 * Math.exp(-t / 0.11) + 0.045 * Math.exp(-t / 0.5);
      const raw = (next() * 2 - 1) * blast;
      smooth += (0.12 + 0.75 * dulling) * (raw - smooth);
      sound[start + n] += loudness * strength * smooth;
    }
  }
}

function bark(sound, onset, next) {
  const start = Math.round(onset * RATE);
  for (let n = 0; n < RATE * 0.22 && start + n < sound.length; n++) {
    const t = n / RATE;
    const swell = Math.sin((Math.PI * t) / 0.22) ** 2;
    const pitch = 380 + 200 * Math.sin((Math.PI * t) / 0.22);
    let voice = 0;
    for (let k = 1; k <= 9; k++) voice += Math.sin(2 * Math.PI * pitch * k * t) / k;
    sound[start + n] += 0.06 * swell * (voice + (next() - 0.5));
  }
}

/** A 16-bit mono WAV file. @param {Float32Array} samples */
export function wav(samples, rate = RATE) {
  const file = Buffer.alloc(44 + samples.length * 2);
  file.write('RIFF', 0);
  file.writeUInt32LE(file.length - 8, 4);
  file.write('WAVEfmt ', 8);
  file.writeUInt32LE(16, 16);
  file.writeUInt16LE(1, 20);
  file.writeUInt16LE(1, 22);
  file.writeUInt32LE(rate, 24);
  file.writeUInt32LE(rate * 2, 28);
  file.writeUInt16LE(2, 32);
  file.writeUInt16LE(16, 34);
  file.write('data', 36);
  file.writeUInt32LE(samples.length * 2, 40);
  samples.forEach((sample, n) => {
    file.writeInt16LE(Math.round(Math.max(-1, Math.min(1, sample)) * 32_767), 44 + n * 2);
  });
  return file;
}
