// Where the user is, kept in the address: #/view/id?site=… so that every view can be linked to.

export type View = 'alerts' | 'stations' | 'detections' | 'review' | 'learning' | 'releases';
const VIEWS: View[] = ['alerts', 'stations', 'detections', 'review', 'learning', 'releases'];

interface Place {
  view: View;
  /** The selected event or station. */
  id: string | null;
  /** The one site that is shown, or null for all. */
  site: string | null;
}

function parse(hash: string): Place {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view, id] = path.split('/');
  return {
    view: VIEWS.find((known) => known === view) ?? 'alerts',
    id: id ? decodeURIComponent(id) : null,
    site: new URLSearchParams(query).get('site') || null,
  };
}

class Route {
  #place = $state.raw(parse(location.hash));

  constructor() {
    window.addEventListener('hashchange', () => (this.#place = parse(location.hash)));
  }

  get view(): View {
    return this.#place.view;
  }

  get id(): string | null {
    return this.#place.id;
  }

  get site(): string | null {
    return this.#place.site;
  }

  href(change: Partial<Place>): string {
    const { view, id, site } = { ...this.#place, ...change };
    const path = `#/${view}${id ? `/${encodeURIComponent(id)}` : ''}`;
    return site ? `${path}?${new URLSearchParams({ site })}` : path;
  }

  /** Goes there without a step in the history. */
  replace(change: Partial<Place>): void {
    history.replaceState(null, '', this.href(change));
    this.#place = parse(location.hash);
  }
}

export const route = new Route();
