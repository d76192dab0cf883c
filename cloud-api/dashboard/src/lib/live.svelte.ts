// The live feed: one SSE connection that comes back by itself and says honestly how it is.

import { SseParser } from './sse';

export type LivePhase = 'connecting' | 'live' | 'reconnecting' | 'offline';

interface Handlers {
  /** The stream is open: whatever happened before must be fetched. */
  connected: () => void;
  /** One event; `data` is parsed JSON of the type's own shape. */
  event: (type: string, data: unknown) => void;
}

const RETRY_MS = [300, 1_000, 2_000, 3_000, 5_000];
/** The server writes a comment every 15 s; three missed ones mean a dead connection. */
const SILENCE_MS = 45_000;
/** Failing for so long is no longer a hiccup. */
const OFFLINE_MS = 20_000;

export class LiveFeed {
  phase = $state<LivePhase>('connecting');
  /** When the stream last delivered a byte, ms since 1970. */
  lastContact = $state<number | null>(null);

  readonly #url: string;
  readonly #handlers: Handlers;
  #lastId: string | null = null;
  #failures = 0;
  #failingSince: number | null = null;
  #abort: AbortController | null = null;
  #wake: (() => void) | null = null;
  #stopped = false;

  constructor(url: string, handlers: Handlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  /** Runs until the returned function is called. */
  start(): () => void {
    const online = () => this.retryNow();
    const offline = () => this.#abort?.abort();
    window.addEventListener('online', online);
    window.addEventListener('offline', offline);
    void this.#run();
    return () => {
      this.#stopped = true;
      window.removeEventListener('online', online);
      window.removeEventListener('offline', offline);
      this.#abort?.abort();
      this.#wake?.();
    };
  }

  retryNow(): void {
    this.#failures = 0;
    this.#wake?.();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#listen();
      } catch {
        // Every reason for a broken stream has the same remedy.
      }
      if (this.#stopped) return;
      this.#failingSince ??= Date.now();
      const long = Date.now() - this.#failingSince > OFFLINE_MS;
      this.phase = long || !navigator.onLine ? 'offline' : 'reconnecting';
      await this.#pause();
    }
  }

  async #listen(): Promise<void> {
    const abort = new AbortController();
    this.#abort = abort;
    let watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const headers: Record<string, string> = { Accept: 'text/event-stream' };
      if (this.#lastId !== null) headers['Last-Event-ID'] = this.#lastId;
      const response = await fetch(this.#url, { headers, signal: abort.signal, cache: 'no-store' });
      const stream = response.headers.get('content-type')?.startsWith('text/event-stream');
      if (!response.ok || !stream || !response.body) throw new Error(`no stream: ${response.status}`);

      this.phase = 'live';
      this.#failures = 0;
      this.#failingSince = null;
      this.lastContact = Date.now();
      this.#handlers.connected();

      const parser = new SseParser();
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
        this.lastContact = Date.now();
        for (const event of parser.push(decoder.decode(value, { stream: true }))) {
          if (event.id !== null) this.#lastId = event.id;
          // The server cannot tell all that happened: as after a pause, the lists say it.
          if (event.type === 'gap') this.#handlers.connected();
          else this.#deliver(event.type, event.data);
        }
      }
    } finally {
      clearTimeout(watchdog);
    }
  }

  #deliver(type: string, text: string): void {
    let data: unknown;
    try {
      data = JSON.parse(text);
    } catch {
      return; // A type that this page does not know may carry anything.
    }
    this.#handlers.event(type, data);
  }

  #pause(): Promise<void> {
    const base = RETRY_MS[Math.min(this.#failures, RETRY_MS.length - 1)] ?? 0;
    this.#failures += 1;
    return new Promise((resolve) => {
      // Jitter, lest every screen of a fleet return in the same instant.
      const timer = setTimeout(done, base * (0.75 + Math.random() / 2));
      const wake = () => done();
      function done() {
        clearTimeout(timer);
        resolve();
      }
      this.#wake = wake;
    });
  }
}
