// The control room's state: lists, stations and the live feed, wired together.

import { getJson, type Device, type Job, type SoundEvent, type SystemInfo } from './api';
import { EventList } from './event-list.svelte';
import { LiveFeed } from './live.svelte';
import { soundNotice } from './notice';
import type { Rollout } from './rollout';
import { settings } from './settings.svelte';
import { stations } from './stations.svelte';

/** How long a card is marked as new. */
const FRESH_MS = 8_000;
const POLL_MS = 60_000;

class Room {
  readonly alerts = new EventList('/api/v1/alerts');
  readonly detections = new EventList('/api/v1/detections');
  system = $state.raw<SystemInfo | null>(null);
  /** Alerts that arrived while the page was hidden. */
  unseen = $state(0);
  /** Ids that arrived in the last seconds. */
  fresh = $state.raw<ReadonlySet<string>>(new Set());
  /** The latest arrival, for screen readers and for the notice of a late one. */
  latest = $state.raw<SoundEvent | null>(null);

  /** What the newest training does, as the stream tells it. */
  training = $state.raw<Job | null>(null);
  /** The rollout that changed last, as the stream told it. */
  rollout = $state.raw<Rollout | null>(null);
  /** Counts changes of the model that serves. */
  modelChanges = $state(0);

  readonly live = new LiveFeed('/api/v1/live', {
    connected: () => this.#catchUp(),
    event: (type, data) => this.#take(type, data),
  });

  /** Runs until the returned function is called. */
  start(): () => void {
    const stop = this.live.start();
    // Until the stream opens, and where a proxy forbids it, the page still shows what there is.
    void stations.refresh();
    void this.#readSystem();
    const poll = setInterval(() => this.#catchUp(), POLL_MS);
    const seen = () => {
      if (!document.hidden) this.unseen = 0;
    };
    document.addEventListener('visibilitychange', seen);
    return () => {
      stop();
      clearInterval(poll);
      document.removeEventListener('visibilitychange', seen);
    };
  }

  find(id: string | null): SoundEvent | undefined {
    return this.alerts.find(id) ?? this.detections.find(id);
  }

  /** Takes an event as the server told it in an answer. */
  accept(event: SoundEvent): void {
    this.alerts.accept(event);
    this.detections.accept(event);
  }

  #catchUp(): void {
    void this.alerts.refresh().then((missed) => this.#announce(missed));
    if (this.detections.status !== 'loading') void this.detections.refresh();
    void stations.refresh();
    void this.#readSystem();
  }

  async #readSystem(): Promise<void> {
    // Decoration only: the feed's own state says whether the server is there.
    this.system = await getJson<SystemInfo>('/api/v1/system').catch(() => this.system);
  }

  #take(type: string, data: unknown): void {
    if (type === 'device') {
      stations.accept(data as Device);
      return;
    }
    if (type === 'training') {
      this.training = data as Job;
      return;
    }
    if (type === 'rollout') {
      this.rollout = data as Rollout;
      return;
    }
    if (type === 'model') {
      this.modelChanges += 1;
      void this.#readSystem();
      return;
    }
    if (type !== 'alert' && type !== 'detection' && type !== 'clip') return;
    const event = data as SoundEvent;
    const isNew = this.alerts.accept(event);
    this.detections.accept(event);
    if (isNew) this.#announce([event]);
  }

  #announce(events: SoundEvent[]): void {
    if (events.length === 0) return;
    this.latest = events[0] ?? null;
    const ids = new Set(events.map((event) => event.id));
    this.fresh = new Set([...this.fresh, ...ids]);
    setTimeout(() => {
      this.fresh = new Set([...this.fresh].filter((id) => !ids.has(id)));
    }, FRESH_MS);
    const real = events.filter((event) => !event.canary).length;
    if (real === 0) return;
    if (document.hidden) this.unseen += real;
    if (settings.notice) soundNotice();
  }
}

export const room = new Room();
