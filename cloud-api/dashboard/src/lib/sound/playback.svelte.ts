// Which player the keyboard acts on: the one on the screen.

import type { Player } from './player.svelte';

class Playback {
  current = $state.raw<Player | null>(null);
}

export const playback = new Playback();
