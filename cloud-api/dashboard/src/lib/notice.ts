// A short sound and a vibration for a new alert, if the user wants them.

let context: AudioContext | null = null;

/** Call from a click: browsers let no page sound before one. */
export function unlockNotice(): void {
  context ??= new AudioContext();
  void context.resume();
}

/** Two rising tones, and two pulses on a phone. */
export function soundNotice(): void {
  navigator.vibrate?.([180, 90, 180]);
  if (!context || context.state !== 'running') return;
  tone(context, 660, 0);
  tone(context, 990, 0.18);
}

function tone(context: AudioContext, hertz: number, after: number): void {
  const start = context.currentTime + after;
  const oscillator = new OscillatorNode(context, { frequency: hertz, type: 'triangle' });
  const gain = new GainNode(context, { gain: 0 });
  gain.gain.setValueAtTime(0, start);
  gain.gain.linearRampToValueAtTime(0.25, start + 0.01);
  gain.gain.exponentialRampToValueAtTime(0.001, start + 0.16);
  oscillator.connect(gain).connect(context.destination);
  oscillator.start(start);
  oscillator.stop(start + 0.2);
}
