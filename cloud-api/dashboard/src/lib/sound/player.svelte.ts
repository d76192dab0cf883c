// Plays one recording at a time, with gain for sounds from far away.

/** Beyond this a distant shot is mostly noise, and a near one would hurt. */
export const GAIN_MAX_DB = 36;
export const GAIN_STEP_DB = 6;

export class Player {
  playing = $state(false);
  /** Seconds from the beginning. */
  position = $state(0);
  gainDb = $state(0);

  readonly #buffer: AudioBuffer;
  #context: AudioContext | null = null;
  #gain: GainNode | null = null;
  #source: AudioBufferSourceNode | null = null;
  #startedAt = 0;
  #startedFrom = 0;
  #frame = 0;

  constructor(buffer: AudioBuffer) {
    this.#buffer = buffer;
  }

  get duration(): number {
    return this.#buffer.duration;
  }

  async toggle(): Promise<void> {
    if (this.playing) this.pause();
    else await this.play();
  }

  async play(): Promise<void> {
    this.#context ??= new AudioContext();
    await this.#context.resume();
    if (this.position >= this.duration - 0.02) this.position = 0;
    this.#begin(this.#context, this.position);
  }

  pause(): void {
    this.#drop();
    this.playing = false;
    cancelAnimationFrame(this.#frame);
  }

  seek(seconds: number): void {
    this.position = Math.max(0, Math.min(this.duration, seconds));
    if (this.playing && this.#context) this.#begin(this.#context, this.position);
  }

  setGain(decibels: number): void {
    this.gainDb = Math.max(0, Math.min(GAIN_MAX_DB, decibels));
    if (this.#gain) this.#gain.gain.value = 10 ** (this.gainDb / 20);
  }

  close(): void {
    this.pause();
    void this.#context?.close();
    this.#context = null;
  }

  #begin(context: AudioContext, from: number): void {
    this.#drop();
    if (!this.#gain) {
      // Amplified sound must not clip: a blast after +30 dB would.
      const limiter = new DynamicsCompressorNode(context, { threshold: -6, knee: 0, ratio: 20, attack: 0.001, release: 0.1 });
      this.#gain = new GainNode(context, { gain: 10 ** (this.gainDb / 20) });
      this.#gain.connect(limiter).connect(context.destination);
    }
    const source = new AudioBufferSourceNode(context, { buffer: this.#buffer });
    source.connect(this.#gain);
    source.onended = () => {
      if (source !== this.#source) return;
      this.pause();
      this.position = this.duration;
    };
    source.start(0, from);
    this.#source = source;
    this.#startedAt = context.currentTime;
    this.#startedFrom = from;
    this.playing = true;
    cancelAnimationFrame(this.#frame);
    this.#follow(context);
  }

  #follow(context: AudioContext): void {
    this.#frame = requestAnimationFrame(() => {
      if (!this.playing) return;
      this.position = Math.min(this.duration, this.#startedFrom + context.currentTime - this.#startedAt);
      this.#follow(context);
    });
  }

  #drop(): void {
    if (!this.#source) return;
    this.#source.onended = null;
    this.#source.stop();
    this.#source.disconnect();
    this.#source = null;
  }
}
