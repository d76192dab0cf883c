// Power spectra of real frames by an in-place radix-2 FFT.

export class PowerSpectrum {
  readonly size: number;
  readonly #window: Float32Array;
  readonly #cos: Float32Array;
  readonly #sin: Float32Array;
  readonly #swap: Uint32Array;
  readonly #re: Float32Array;
  readonly #im: Float32Array;

  /** `size` is a power of two, in samples; frames are weighted by a Hann window. */
  constructor(size: number) {
    this.size = size;
    const bits = Math.log2(size);
    this.#window = Float32Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
    this.#cos = Float32Array.from({ length: size / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / size));
    this.#sin = Float32Array.from({ length: size / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / size));
    this.#swap = Uint32Array.from({ length: size }, (_, n) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((n >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
    this.#re = new Float32Array(size);
    this.#im = new Float32Array(size);
  }

  /**
   * Writes the power of bins 0 to size/2 of the frame at `start`, full-scale sine = 1, into `out`
   * at `at`. Samples outside `samples` count as 0.
   */
  measure(samples: Float32Array, start: number, out: Float32Array, at: number): void {
    const { size } = this;
    const re = this.#re;
    const im = this.#im;
    for (let n = 0; n < size; n++) {
      re[this.#swap[n]!] = (samples[start + n] ?? 0) * this.#window[n]!;
    }
    im.fill(0);
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let base = 0; base < size; base += 2 * half) {
        for (let k = 0; k < half; k++) {
          const c = this.#cos[k * step]!;
          const s = this.#sin[k * step]!;
          const a = base + k;
          const b = a + half;
          const br = re[b]! * c - im[b]! * s;
          const bi = re[b]! * s + im[b]! * c;
          re[b] = re[a]! - br;
          im[b] = im[a]! - bi;
          re[a]! += br;
          im[a]! += bi;
        }
      }
    }
    // A Hann window passes half of the amplitude, a real sine splits into two bins.
    const scale = 16 / (size * size);
    for (let k = 0; k <= size / 2; k++) out[at + k] = (re[k]! * re[k]! + im[k]! * im[k]!) * scale;
  }
}
