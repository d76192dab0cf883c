// Every station the server knows, kept fresh by live events.

import { ApiError, getJson, type Device, type Page } from './api';

class Stations {
  items = $state.raw<Device[]>([]);
  status = $state<'loading' | 'ready' | 'failed'>('loading');
  error = $state<ApiError | null>(null);

  async refresh(): Promise<void> {
    try {
      const items: Device[] = [];
      let cursor: string | null = null;
      do {
        const page: Page<Device> = await getJson('/api/v1/devices', { cursor });
        items.push(...page.items);
        cursor = page.next ?? null;
      } while (cursor);
      this.items = items;
      this.status = 'ready';
      this.error = null;
    } catch (cause) {
      if (!(cause instanceof ApiError)) throw cause;
      this.error = cause;
      if (this.status === 'loading') this.status = 'failed';
    }
  }

  accept(device: Device): void {
    const known = this.items.some((other) => other.id === device.id);
    this.items = known
      ? this.items.map((other) => (other.id === device.id ? device : other))
      : [...this.items, device];
  }

  of(site: string | null): Device[] {
    return site ? this.items.filter((device) => device.site_id === site) : this.items;
  }

  find(id: string | null): Device | undefined {
    return this.items.find((device) => device.id === id);
  }
}

export const stations = new Stations();
