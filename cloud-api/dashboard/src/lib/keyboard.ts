// Keys of the whole page: j and k move, space plays, Escape returns to the newest.

import { room } from './room.svelte';
import { route } from './route.svelte';
import { playback } from './sound/playback.svelte';

/** Elements that have their own use for keys. Links do not use the space bar. */
const OWN_KEYS = 'input, select, textarea, button, [contenteditable]';

export function onKey(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target instanceof Element && event.target.closest(OWN_KEYS)) return;
  switch (event.key) {
    case 'j':
      move(1);
      break;
    case 'k':
      move(-1);
      break;
    case ' ':
      if (!playback.current) return;
      void playback.current.toggle();
      break;
    case 'Escape':
      if (route.id) route.replace({ id: null });
      break;
    default:
      return;
  }
  event.preventDefault();
}

/** A button that was clicked with the mouse keeps no focus: the space bar goes on to play. */
export function onClick(event: MouseEvent): void {
  if (event.detail === 0 || !(event.target instanceof Element)) return;
  event.target.closest('button')?.blur();
}

function move(step: number): void {
  if (route.view !== 'alerts' && route.view !== 'detections') return;
  const { items } = route.view === 'alerts' ? room.alerts : room.detections;
  const shown = route.id ?? (route.view === 'alerts' ? items[0]?.id : undefined);
  const index = items.findIndex((event) => event.id === shown);
  const next = items[Math.max(0, Math.min(items.length - 1, index + step))];
  if (next) route.replace({ id: next.id });
}
