// The one clock of the page: relative times follow it.

import { serverNow } from './api';

class Clock {
  /** Milliseconds since 1970, renewed every second. */
  now = $state(serverNow());

  constructor() {
    setInterval(() => (this.now = serverNow()), 1_000);
  }
}

export const clock = new Clock();
