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

/** A 16-bit mono FLAC file, uncompressed inside: valid for every decoder. @param {Float32Array} samples */
export function flac(samples, rate = RATE) {
  const BLOCK = 4_096;
  const head = Buffer.alloc(42);
  head.write('fLaC');
  head.writeUInt32BE(0x80000022, 4);
  head.writeUInt16BE(BLOCK, 8);
  head.writeUInt16BE(BLOCK, 10);
  // 20 bits rate, 3 bits channels − 1, 5 bits depth − 1, 36 bits length.
  head.writeUInt32BE(((rate << 12) | (15 << 4)) >>> 0, 18);
  head.writeUInt32BE(samples.length, 22);
  const parts = [head];
  for (let start = 0, number = 0; start < samples.length; start += BLOCK, number++) {
    const block = samples.subarray(start, start + BLOCK);
    const coded = number < 0x80 ? [number] : [0xc0 | (number >> 6), 0x80 | (number & 0x3f)];
    const header = [0xff, 0xf8, 0x70, 0x08, ...coded, (block.length - 1) >> 8, (block.length - 1) & 0xff];
    header.push(crc(header, 8, 0x07));
    const body = Buffer.alloc(1 + block.length * 2);
    body[0] = 0x02;
    block.forEach((sample, n) => body.writeInt16BE(Math.round(Math.max(-1, Math.min(1, sample)) * 32_767), 1 + n * 2));
    const frame = Buffer.concat([Buffer.from(header), body]);
    const check = crc(frame, 16, 0x8005);
    parts.push(frame, Buffer.from([check >> 8, check & 0xff]));
  }
  return Buffer.concat(parts);
}

function crc(bytes, width, polynomial) {
  const top = 1 << (width - 1);
  const mask = (1 << width) - 1;
  let value = 0;
  for (const byte of bytes) {
    value ^= byte << (width - 8);
    for (let bit = 0; bit < 8; bit++) value = value & top ? ((value << 1) ^ polynomial) & mask : (value << 1) & mask;
  }
  return value;
}
