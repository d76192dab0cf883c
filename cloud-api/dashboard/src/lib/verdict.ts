// What a person may say of an event, and saying it.

import { sendJson, type SoundEvent, type Verdict, type VerdictWord } from './api';
import { className } from './words';

/** What a false alarm was, in the order of the buttons; the number keys follow it. */
export const CAUSES: [string, string][] = [
  ['thunder', 'Thunder'],
  ['branch', 'Branch'],
  ['fireworks', 'Fireworks'],
  ['backfire', 'Backfire'],
  ['hail', 'Hail'],
  ['speech', 'Speech'],
  ['canary', 'Self-test'],
  ['other', 'Something else'],
];

export interface Wish {
  verdict: VerdictWord;
  cause?: string;
  class?: string;
}

const path = (id: string) => `/api/v1/detections/${encodeURIComponent(id)}/verdict`;

/** Says it; gives the event as it then is. */
export function judge(id: string, wish: Wish): Promise<SoundEvent> {
  return sendJson<SoundEvent>('PUT', path(id), wish);
}

/** Takes back what was said. */
export function withdraw(id: string): Promise<SoundEvent> {
  return sendJson<SoundEvent>('DELETE', path(id));
}

/** "False alarm: thunder". */
export function verdictWords(verdict: Verdict): string {
  const cause = CAUSES.find(([name]) => name === verdict.cause)?.[1].toLowerCase();
  switch (verdict.verdict) {
    case 'confirmed':
      return 'Confirmed';
    case 'relabelled':
      return `It was: ${className(verdict.class ?? 'unknown').toLowerCase()}`;
    default:
      return cause ? `False alarm: ${cause}` : 'False alarm';
  }
}

/** "anna" of "user:anna". */
export function who(actor: string): string {
  return actor === 'local' ? 'somebody here' : actor.replace(/^(user|key|job):/, '');
}
