// Stations on a plane: an equirectangular plot that is true to scale at its middle.

import type { Location } from './api';

const KM_PER_DEGREE = 111.32;
/** A site is never drawn closer than this: one station alone needs some ground around it. */
const LEAST_KM = 0.8;

export interface Plane {
  x: (place: Location) => number;
  y: (place: Location) => number;
  /** A round distance, and its length in the plot's units. */
  scale: { km: number; length: number };
}

/** A plot of `places` in `width` × `height` with `margin` kept free. */
export function plane(places: Location[], width: number, height: number, margin: number): Plane {
  const lats = places.map((place) => place.lat);
  const lons = places.map((place) => place.lon);
  const lat = (Math.min(...lats) + Math.max(...lats)) / 2;
  const lon = (Math.min(...lons) + Math.max(...lons)) / 2;
  const east = KM_PER_DEGREE * Math.max(0.01, Math.cos((lat * Math.PI) / 180));
  const wide = Math.max(LEAST_KM, (Math.max(...lons) - Math.min(...lons)) * east);
  const tall = Math.max(LEAST_KM, (Math.max(...lats) - Math.min(...lats)) * KM_PER_DEGREE);
  const perKm = Math.min((width - 2 * margin) / wide, (height - 2 * margin) / tall);
  const km = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000].findLast((step) => step * perKm <= width / 4) ?? 0.1;
  return {
    x: (place) => width / 2 + (place.lon - lon) * east * perKm,
    y: (place) => height / 2 - (place.lat - lat) * KM_PER_DEGREE * perKm,
    scale: { km, length: km * perKm },
  };
}
