// Rollouts as the server tells them, and what they say in words.

/** Which signed release. */
export interface ReleaseName {
  id: string;
  name: string;
  version: string;
  counter: number;
}

export interface Release extends ReleaseName {
  expires_at: string;
  site: string | null;
  devices: string[];
  replaces: { name: string; version: string; counter: number } | null;
  bytes: number;
  created_at: string;
  created_by: string;
}

export type CohortPlan = { devices: string[] } | { percent: number } | { sites: string[] };
export type RolloutState = 'draft' | 'running' | 'paused' | 'halted' | 'done' | 'rolled_back';

export interface Cohort {
  plan: CohortPlan;
  devices: number;
  /** How many stations are at which step. */
  steps: Record<string, number>;
  /** Since when it has committed its share. */
  reached_at: string | null;
}

export interface Rollout {
  id: string;
  release: ReleaseName;
  revert: ReleaseName | null;
  state: RolloutState;
  /** Why it is halted or rolled back, a sentence. */
  reason: string | null;
  /** The cohort that has its turn, from 1; 0 before the start. */
  cohort: number;
  cohorts: Cohort[];
  created_at: string;
  created_by: string;
  updated_at: string;
}

export type Wish = 'start' | 'pause' | 'resume' | 'halt' | 'rollback';

const STATE_WORDS: Record<RolloutState, string> = {
  draft: 'Planned',
  running: 'Running',
  paused: 'Paused',
  halted: 'Halted',
  done: 'Done',
  rolled_back: 'Rolled back',
};

const WISHES: Record<RolloutState, Wish[]> = {
  draft: ['start'],
  running: ['pause', 'halt', 'rollback'],
  paused: ['resume', 'halt', 'rollback'],
  halted: ['resume', 'rollback'],
  done: ['rollback'],
  rolled_back: [],
};

export const WISH_WORDS: Record<Wish, string> = {
  start: 'Start',
  pause: 'Pause',
  resume: 'Resume',
  halt: 'Halt',
  rollback: 'Roll back',
};

export function stateWord(state: RolloutState): string {
  return STATE_WORDS[state] ?? state;
}

/** What a person may want of it. */
export function wishes(state: RolloutState): Wish[] {
  return WISHES[state] ?? [];
}

export function title(release: { name: string; version: string }): string {
  return `${release.name} ${release.version}`;
}

/** Who a cohort is, in words. */
export function planned(plan: CohortPlan): string {
  if ('percent' in plan) return `up to ${plan.percent} % of all stations`;
  if ('sites' in plan) return plan.sites.length === 1 ? `site ${plan.sites[0]}` : `${plan.sites.length} sites`;
  return plan.devices.length === 1 ? '1 chosen station' : `${plan.devices.length} chosen stations`;
}

export interface Share {
  kind: 'good' | 'busy' | 'bad' | 'rest';
  count: number;
  words: string;
}

const STEPS: Record<Exclude<Share['kind'], 'rest'>, string[]> = {
  good: ['committed', 'reverted'],
  busy: ['offered', 'accepted', 'downloading', 'verified', 'loaded', 'proved', 'trial', 'reverting'],
  bad: ['refused', 'rolled_back', 'stuck'],
};

/** A cohort in four shares, those that are empty left out. */
export function shares(cohort: Cohort): Share[] {
  const sum = (steps: string[]) => steps.reduce((count, step) => count + (cohort.steps[step] ?? 0), 0);
  const [good, busy, bad] = [sum(STEPS.good), sum(STEPS.busy), sum(STEPS.bad)];
  const back = (cohort.steps['reverted'] ?? 0) > 0;
  const all: Share[] = [
    { kind: 'good', count: good, words: back ? 'are back' : 'run it' },
    { kind: 'busy', count: busy, words: 'under way' },
    { kind: 'bad', count: bad, words: 'failed' },
    { kind: 'rest', count: cohort.devices - good - busy - bad, words: 'wait' },
  ];
  return all.filter((share) => share.count > 0);
}

/** A step of an update, as a station said it. */
export interface UpdateStep {
  release: string;
  counter: number | null;
  step: string;
  code: string | null;
  reason: string | null;
  at: string;
  received_at: string;
}
