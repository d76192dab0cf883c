// Events, newest first, each once: fetched pages and live arrivals in one list.

import { untrack } from 'svelte';
import { ApiError, getJson, type Page, type Query, type SoundEvent } from './api';
import { merged } from './merged';

const PAGE_SIZE = 100;
/** A wall screen runs for months: beyond this it begins again at the newest page. */
const MAX_KEPT = 2_000;

export class EventList {
  items = $state.raw<SoundEvent[]>([]);
  status = $state<'loading' | 'ready' | 'failed'>('loading');
  error = $state<ApiError | null>(null);
  /** Cursor of the next older page. */
  next = $state<string | null>(null);
  loadingOlder = $state(false);

  readonly #path: string;
  #query: Query = {};
  #accepts: (event: SoundEvent) => boolean = () => true;
  /** Raised by each new question: answers to earlier ones are dropped. */
  #generation = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** Asks another question; `accepts` is the same filter for live events. */
  ask(query: Query, accepts: (event: SoundEvent) => boolean): void {
    this.#query = query;
    this.#accepts = accepts;
    this.#generation += 1;
    // Effects call this: the list must not become a reason to ask again.
    untrack(() => {
      this.items = [];
      this.next = null;
      this.status = 'loading';
      void this.refresh();
    });
  }

  /**
   * Fetches the newest page again and joins it with what is shown. Where the two have nothing in
   * common there may be a gap between them: then only the page and what came meanwhile stay.
   * Resolves to the events that are new since the last answer.
   */
  async refresh(forget = false): Promise<SoundEvent[]> {
    const generation = this.#generation;
    const first = this.status !== 'ready';
    const before = new Set(this.items.map((event) => event.id));
    try {
      const page = await this.#page();
      if (generation !== this.#generation) return [];
      const isNew = page.items.filter((event) => !this.find(event.id));
      if (forget || !page.items.some((event) => before.has(event.id))) {
        this.items = this.items.filter((event) => !before.has(event.id));
        this.next = page.next ?? null;
      }
      this.#put(page.items);
      this.status = 'ready';
      this.error = null;
      return first || forget ? [] : isNew;
    } catch (cause) {
      if (!(cause instanceof ApiError)) throw cause;
      if (generation !== this.#generation) return [];
      this.error = cause;
      if (this.status === 'loading') this.status = 'failed';
      return [];
    }
  }

  async older(): Promise<void> {
    if (!this.next || this.loadingOlder) return;
    const generation = this.#generation;
    this.loadingOlder = true;
    try {
      const page = await this.#page(this.next);
      if (generation !== this.#generation) return;
      this.next = page.next ?? null;
      this.#put(page.items);
      this.error = null;
    } catch (cause) {
      if (cause instanceof ApiError && generation === this.#generation) this.error = cause;
    } finally {
      this.loadingOlder = false;
    }
  }

  /** Takes a live event. True if it was not here before. */
  accept(event: SoundEvent): boolean {
    const isNew = !this.find(event.id);
    if (!this.#accepts(event)) {
      // It may have been another class when it was first told.
      if (!isNew) this.items = this.items.filter((other) => other.id !== event.id);
      return false;
    }
    this.#put([event]);
    if (this.items.length > MAX_KEPT) void this.refresh(true);
    return isNew;
  }

  find(id: string | null): SoundEvent | undefined {
    return this.items.find((event) => event.id === id);
  }

  #page(cursor?: string): Promise<Page<SoundEvent>> {
    return getJson(this.#path, { ...this.#query, limit: PAGE_SIZE, cursor });
  }

  #put(events: SoundEvent[]): void {
    const byId = new Map(this.items.map((event) => [event.id, event]));
    for (const event of events) {
      const old = byId.get(event.id);
      byId.set(event.id, old ? merged(old, event) : event);
    }
    const time = (event: SoundEvent) => Date.parse(event.time);
    this.items = [...byId.values()].sort((a, b) => time(b) - time(a) || (a.id < b.id ? 1 : -1));
  }
}
