// Colour maps whose lightness rises evenly, so that louder always reads as brighter.

export type Colour = readonly [red: number, green: number, blue: number];

const FOREST: Colour[] = [
  [5, 12, 10],
  [9, 38, 38],
  [16, 74, 68],
  [44, 118, 84],
  [118, 156, 74],
  [214, 178, 70],
  [250, 212, 128],
  [255, 248, 226],
];

/** Red light only: it keeps the eye adapted to the dark. */
const NIGHT: Colour[] = [
  [4, 0, 0],
  [48, 2, 0],
  [104, 8, 2],
  [168, 22, 8],
  [226, 52, 24],
  [255, 116, 78],
];

const STEPS = 256;

export function palette(night: boolean): Colour[] {
  const stops = night ? NIGHT : FOREST;
  return Array.from({ length: STEPS }, (_, i) => {
    const at = (i / (STEPS - 1)) * (stops.length - 1);
    const index = Math.min(stops.length - 2, Math.floor(at));
    const from = stops[index]!;
    const to = stops[index + 1]!;
    const mix = (channel: 0 | 1 | 2) => Math.round(from[channel] + (to[channel] - from[channel]) * (at - index));
    return [mix(0), mix(1), mix(2)] as const;
  });
}
