// What this screen remembers between visits.

export type Theme = 'auto' | 'light' | 'dark' | 'red';
export const THEMES: Theme[] = ['auto', 'light', 'dark', 'red'];

const KEY = 'ecosight.settings';

interface Saved {
  theme: Theme;
  /** Sound and vibration on a new alert. */
  notice: boolean;
}

function read(): Saved {
  const saved: Saved = { theme: 'auto', notice: false };
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Saved>;
    if (found.theme && THEMES.includes(found.theme)) saved.theme = found.theme;
    saved.notice = found.notice === true;
  } catch {
    // Storage is forbidden or holds something else: the defaults do.
  }
  return saved;
}

class Settings {
  #saved = $state(read());

  get theme(): Theme {
    return this.#saved.theme;
  }

  set theme(theme: Theme) {
    this.#saved.theme = theme;
    if (theme === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    this.#write();
  }

  get notice(): boolean {
    return this.#saved.notice;
  }

  set notice(on: boolean) {
    this.#saved.notice = on;
    this.#write();
  }

  #write(): void {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.#saved));
    } catch {
      // The choice holds until the page is closed.
    }
  }
}

export const settings = new Settings();
