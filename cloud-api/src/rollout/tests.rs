//! Laws of the pure parts: plans, the machine, the rule on false alarms.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::field::{binomial_tail, poisson_tail, worse};
use super::machine::{Device, Facts, Input, Rollout, State, Step, Transition, step};
use super::{Cohort, FalseAlarmRule, FieldCounts, Plan, Rules, Target};

const SECOND_US: i64 = 1_000_000;
const START_US: i64 = 1_772_388_000_000_000;

fn id(n: usize) -> Uuid {
    Uuid::from_u128(n as u128 + 1)
}

fn fleet(count: usize) -> Vec<Target> {
    (0..count).map(|n| Target { device: id(n), site: format!("site-{}", n % 4) }).collect()
}

fn draft() -> Rollout {
    let (state, since_us) = (State::Draft, START_US);
    Rollout { state, cohort: 0, reached_us: None, since_us, reason: None }
}

/// A rollout with its stations, moved by hand.
struct World {
    plan: Plan,
    rollout: Rollout,
    devices: Vec<Device>,
    field: FieldCounts,
    can_revert: bool,
    now_us: i64,
    /// Stations that ever got the release.
    touched: BTreeSet<Uuid>,
}

impl World {
    fn new(plan: Plan, count: usize, draw: u128) -> Self {
        let assigned = plan.assign(&fleet(count), Uuid::from_u128(draw)).unwrap();
        let device = |(target, cohort): (Target, usize)| Device {
            id: target.device,
            cohort,
            step: Step::Waiting,
            heard_us: START_US,
            // Seen all the time, whatever it says of the release.
            seen_us: i64::MAX,
        };
        Self {
            plan,
            rollout: draft(),
            devices: assigned.into_iter().map(device).collect(),
            field: FieldCounts::default(),
            can_revert: true,
            now_us: START_US,
            touched: BTreeSet::new(),
        }
    }

    fn decide(&self, input: Input) -> Option<Transition> {
        let facts = Facts {
            plan: &self.plan,
            devices: &self.devices,
            field: self.field,
            can_revert: self.can_revert,
            now_us: self.now_us,
        };
        step(&self.rollout, &facts, input).unwrap()
    }

    /// Does what follows from an input; whether anything did.
    fn act(&mut self, input: Input) -> bool {
        let Some(transition) = self.decide(input) else { return false };
        let Transition { rollout, offer, withdraw, clear, revert, .. } = transition;
        assert!(
            offer.is_empty() || rollout.state == State::Running,
            "only a running rollout tells stations of the release"
        );
        for id in &offer {
            let cohort = self.device(*id).cohort;
            assert!(cohort <= rollout.cohort, "a station before its cohort's turn");
        }
        for (ids, step) in
            [(offer, Step::Offered), (withdraw, Step::Withdrawn), (revert, Step::Reverting)]
        {
            for id in ids {
                if step == Step::Offered {
                    self.touched.insert(id);
                }
                let now_us = self.now_us;
                let device = self.device(id);
                (device.step, device.heard_us) = (step, now_us);
            }
        }
        for id in clear {
            assert_eq!(self.device(id).step, Step::Committed);
        }
        self.rollout = rollout;
        true
    }

    fn device(&mut self, id: Uuid) -> &mut Device {
        self.devices.iter_mut().find(|device| device.id == id).unwrap()
    }

    /// A station says something.
    fn says(&mut self, id: Uuid, said: Step) {
        let now_us = self.now_us;
        let device = self.device(id);
        if let Some(next) = device.step.heard(said) {
            (device.step, device.heard_us) = (next, now_us);
        }
    }

    fn offered(&self) -> Vec<Uuid> {
        let offered = self.devices.iter().filter(|device| device.step == Step::Offered);
        offered.map(|device| device.id).collect()
    }
}

fn plan(cohorts: Vec<Cohort>) -> Plan {
    let rules = Rules { soak_s: 60, trial_s: 10, silence_s: 600, ..Rules::default() };
    Plan { cohorts, rules }
}

fn waves(percents: &[f64]) -> Plan {
    plan(percents.iter().map(|percent| Cohort::Percent(*percent)).collect())
}

/// Runs a world in which every station answers at its own pace: `fate` says how.
fn run(world: &mut World, rng: &mut SmallRng, fate: impl Fn(Uuid) -> Option<Step>) {
    assert!(world.act(Input::Start));
    for _ in 0..2_000 {
        for id in world.offered() {
            if rng.random_bool(0.2)
                && let Some(end) = fate(id)
            {
                world.says(id, end);
            }
        }
        while world.act(Input::Tick) {}
        assert_eq!(world.decide(Input::Tick), None, "the same facts twice");
        if world.rollout.state != State::Running {
            return;
        }
        world.now_us += 5 * SECOND_US;
    }
    panic!("neither done nor stopped: {:?}", world.rollout);
}

#[test]
fn cohorts_are_disjoint_in_order_and_drawn_anew() {
    let named = vec![id(7), id(3)];
    let plan = plan(vec![
        Cohort::Devices(named.clone()),
        Cohort::Percent(10.0),
        Cohort::Sites(vec!["site-2".into()]),
        Cohort::Percent(100.0),
    ]);
    assert_eq!(plan.faults(), Vec::<String>::new());
    let fleet = fleet(100);
    let assigned = plan.assign(&fleet, id(1)).unwrap();
    let cohort = |n: usize| -> BTreeSet<Uuid> {
        assigned.iter().filter(|(_, cohort)| *cohort == n).map(|(t, _)| t.device).collect()
    };
    assert_eq!(cohort(0), named.into_iter().collect());
    assert_eq!(cohort(0).len() + cohort(1).len(), 10, "a tenth, with those before");
    let site: BTreeSet<Uuid> =
        fleet.iter().filter(|t| t.site == "site-2").map(|t| t.device).collect();
    assert!(cohort(2).is_subset(&site));
    assert_eq!(assigned.len(), 100);
    assert_eq!(assigned.iter().map(|(t, _)| t.device).collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(plan.assign(&fleet, id(1)).unwrap(), assigned);
    assert_ne!(plan.assign(&fleet, id(2)).unwrap(), assigned);
    // Of a fleet of three, one is a canary.
    let small = waves(&[5.0, 100.0]).assign(&fleet[..3], id(1)).unwrap();
    assert_eq!(small.iter().filter(|(_, cohort)| *cohort == 0).count(), 1);
}

#[test]
fn a_plan_that_cannot_be_is_told_by_its_fields() {
    for (cohorts, word) in [
        (vec![], "cohorts"),
        (vec![Cohort::Percent(50.0), Cohort::Percent(10.0)], "cohort 2"),
        (vec![Cohort::Percent(f64::NAN)], "cohort 1"),
        (vec![Cohort::Percent(101.0)], "cohort 1"),
        (vec![Cohort::Devices(vec![])], "cohort 1"),
        (vec![Cohort::Sites(vec!["Not A Site".into()])], "cohort 1"),
    ] {
        let faults = plan(cohorts).faults();
        assert!(faults.iter().any(|fault| fault.contains(word)), "{faults:?}");
    }
    let bad = Rules {
        commit_share: 0.0,
        max_failed_share: 2.0,
        max_silent_share: f64::NAN,
        silence_s: 0,
        false_alarms: FalseAlarmRule { significance: 1.0, ..FalseAlarmRule::default() },
        ..Rules::default()
    };
    assert_eq!(Plan { rules: bad, ..Plan::default() }.faults().len(), 5);
    let stranger = plan(vec![Cohort::Devices(vec![id(999)])]);
    assert!(stranger.assign(&fleet(3), id(1)).unwrap_err().contains("no station"));
    let empty = plan(vec![Cohort::Percent(100.0), Cohort::Sites(vec!["site-1".into()])]);
    assert!(empty.assign(&fleet(8), id(1)).unwrap_err().contains("cohort 2"));
}

/// Every state × every wish: what can be, and what is refused.
#[test]
fn every_wish_from_every_state() {
    use State::{Done, Draft, Halted, Paused, RolledBack, Running};
    let wishes = [
        (Input::Start, vec![(Draft, Running)]),
        (Input::Pause, vec![(Running, Paused)]),
        (Input::Resume, vec![(Paused, Running), (Halted, Running)]),
        (Input::Halt("x".into()), vec![(Running, Halted), (Paused, Halted)]),
        (
            Input::RollBack("x".into()),
            [Running, Paused, Halted, Done].map(|state| (state, RolledBack)).to_vec(),
        ),
    ];
    for (wish, allowed) in wishes {
        for state in State::ALL {
            let mut world = World::new(waves(&[50.0, 100.0]), 8, 1);
            world.rollout.state = state;
            let facts = Facts {
                plan: &world.plan,
                devices: &world.devices,
                field: world.field,
                can_revert: true,
                now_us: world.now_us,
            };
            let next = step(&world.rollout, &facts, wish.clone());
            let wanted = allowed.iter().find(|(from, _)| *from == state).map(|(_, to)| *to);
            let found = next.ok().flatten().map(|transition| transition.rollout.state);
            assert_eq!(found, wanted, "{wish:?} from {state:?}");
        }
    }
    for state in State::ALL {
        assert_eq!(State::named(state.name()), Some(state));
    }
    for step in Step::ALL {
        assert_eq!(Step::named(step.name()), Some(step));
    }
}

#[test]
fn the_next_cohort_waits_for_the_share_and_the_soak() {
    // Behind one canary, of which other things are asked.
    let mut world = World::new(waves(&[1.0, 11.0, 100.0]), 100, 1);
    world.act(Input::Start);
    world.says(world.offered()[0], Step::Committed);
    world.act(Input::Tick);
    world.now_us += 60 * SECOND_US;
    world.act(Input::Tick);
    let canaries = world.offered();
    assert_eq!(canaries.len(), 10);
    for id in &canaries[..7] {
        world.says(*id, Step::Committed);
    }
    assert!(!world.act(Input::Tick), "seven of ten are no four fifths");
    world.says(canaries[7], Step::Committed);
    assert!(world.act(Input::Tick), "now it soaks");
    world.now_us += 59 * SECOND_US;
    assert!(!world.act(Input::Tick));
    // One goes back by itself meanwhile: the share is gone, and the soak begins anew.
    world.plan.rules.max_failed_share = 0.2;
    world.says(canaries[0], Step::WentBack);
    assert!(world.act(Input::Tick));
    world.now_us += 10 * SECOND_US;
    assert!(!world.act(Input::Tick));
    world.says(canaries[8], Step::Committed);
    world.act(Input::Tick);
    world.now_us += 59 * SECOND_US;
    assert!(!world.act(Input::Tick));
    world.now_us += SECOND_US;
    assert!(world.act(Input::Tick));
    assert_eq!((world.rollout.cohort, world.touched.len()), (2, 100));
}

#[test]
fn every_canary_is_waited_for_and_one_that_fails_halts() {
    let mut world = World::new(waves(&[10.0, 100.0]), 100, 1);
    world.plan.rules.soak_s = 0;
    world.act(Input::Start);
    let canaries = world.offered();
    for id in &canaries[..9] {
        world.says(*id, Step::Committed);
    }
    world.says(canaries[9], Step::Downloading);
    assert!(!world.act(Input::Tick), "nine of ten are enough, but the tenth may fail");
    let last = world.devices.clone();
    world.says(canaries[9], Step::Refused);
    assert!(world.act(Input::Tick));
    assert_eq!(world.rollout.state, State::Halted);
    let reason = world.rollout.reason.clone().unwrap();
    assert!(reason.starts_with("1 of 10 stations of cohort 1 refused"), "{reason}");

    // Whoever wants to bear one, can; and one that is silent is not waited for for ever.
    for fate in [Some(Step::Refused), None] {
        let mut world = World::new(waves(&[10.0, 100.0]), 100, 1);
        (world.plan.rules.soak_s, world.plan.rules.max_failed_canaries) = (0, 1);
        world.act(Input::Start);
        world.devices.clone_from(&last);
        match fate {
            Some(step) => world.says(canaries[9], step),
            None => world.now_us += 601 * SECOND_US,
        }
        assert!(world.act(Input::Tick), "{fate:?}");
        assert_eq!((world.rollout.state, world.rollout.cohort), (State::Running, 1), "{fate:?}");
    }
}

#[test]
fn a_station_that_falls_silent_with_the_release_is_silent() {
    let mut world = World::new(waves(&[10.0, 100.0]), 100, 1);
    world.act(Input::Start);
    let canaries = world.offered();
    for id in &canaries {
        world.says(*id, Step::Committed);
    }
    assert!(world.act(Input::Tick), "all run it, and it soaks");
    world.plan.rules.soak_s = 3_600;
    let gone_us = world.now_us + 10 * SECOND_US;
    for id in &canaries[..3] {
        world.device(*id).seen_us = gone_us;
    }
    world.now_us = gone_us + 600 * SECOND_US;
    assert!(!world.act(Input::Tick), "not yet");
    world.now_us += SECOND_US;
    assert!(world.act(Input::Tick));
    assert_eq!(world.rollout.state, State::Halted);
    let reason = world.rollout.reason.clone().unwrap();
    assert!(reason.contains("3 of 10 stations of cohort 1 said nothing for 10 min"), "{reason}");
    // Two may be silent, but they run nothing that one knows of: the share must be reached without.
    let mut world = World::new(waves(&[10.0, 100.0]), 100, 1);
    world.act(Input::Start);
    for id in &canaries {
        world.says(*id, Step::Committed);
        world.device(*id).seen_us = world.now_us;
    }
    world.act(Input::Tick);
    world.now_us += 601 * SECOND_US;
    for id in &canaries[2..] {
        world.device(*id).seen_us = world.now_us;
    }
    assert!(world.act(Input::Tick), "eight of ten are enough");
    assert_eq!(world.rollout.cohort, 1);
}

#[test]
fn silence_halts_and_so_does_a_share_that_cannot_be_reached() {
    let mut world = World::new(waves(&[10.0, 100.0]), 100, 1);
    world.act(Input::Start);
    let canaries = world.offered();
    for id in &canaries[..7] {
        world.says(*id, Step::Committed);
    }
    world.says(canaries[7], Step::Trial);
    world.now_us += 600 * SECOND_US;
    assert!(!world.act(Input::Tick));
    world.now_us += SECOND_US;
    // Two are silent, which two may be; the one on trial has ten seconds more. Seven and it can
    // still make eight.
    assert!(!world.act(Input::Tick));
    world.now_us += 10 * SECOND_US;
    assert!(world.act(Input::Tick));
    assert_eq!(world.rollout.state, State::Halted);
    let reason = world.rollout.reason.clone().unwrap();
    assert!(reason.contains("3 of 10 stations of cohort 1 said nothing for 10 min"), "{reason}");
    assert_eq!(world.offered(), Vec::<Uuid>::new(), "who has not decided stays as it is");

    let mut world = World::new(waves(&[100.0]), 10, 1);
    world.plan.rules.max_failed_share = 0.5;
    world.act(Input::Start);
    for id in world.offered().into_iter().take(3) {
        world.says(id, Step::Refused);
    }
    assert!(world.act(Input::Tick));
    let reason = world.rollout.reason.clone().unwrap();
    assert!(reason.contains("only 7 can"), "{reason}");
}

#[test]
fn who_resumes_has_seen_what_went_wrong() {
    let mut world = World::new(waves(&[20.0, 100.0]), 50, 1);
    world.act(Input::Start);
    let canaries = world.offered();
    world.says(canaries[0], Step::Refused);
    assert!(world.act(Input::Tick));
    assert_eq!(world.rollout.state, State::Halted);
    assert!(world.rollout.reason.as_ref().unwrap().contains("1 of 10 stations of cohort 1"));
    assert!(!world.act(Input::Tick), "a halted one stays halted");
    world.now_us += SECOND_US;
    world.act(Input::Resume);
    assert_eq!((world.rollout.state, world.rollout.reason.clone()), (State::Running, None));
    assert_eq!(world.offered().len(), 9, "those that were told to stay are told again");
    assert!(!world.act(Input::Tick));
    world.says(canaries[1], Step::WentBack);
    world.act(Input::Tick);
    assert_eq!(world.rollout.state, State::Halted, "a new failure counts");
}

#[test]
fn a_way_back_needs_a_signed_release_or_a_person() {
    let mut world = World::new(waves(&[50.0, 100.0]), 8, 1);
    world.act(Input::Start);
    let canaries = world.offered();
    world.says(canaries[0], Step::Committed);
    world.says(canaries[1], Step::Downloading);
    let back = world.decide(Input::RollBack("rangers complain.".into())).unwrap();
    assert_eq!(back.revert, [canaries[0]]);
    assert_eq!(back.withdraw.len(), 3);
    let reason = back.rollout.reason.unwrap();
    assert_eq!(reason, "rangers complain; 1 station gets the signed release to go back by");
    world.can_revert = false;
    let back = world.decide(Input::RollBack("rangers complain".into())).unwrap();
    assert_eq!((back.revert.len(), back.clear.clone()), (0, vec![canaries[0]]));
    let reason = back.rollout.reason.unwrap();
    assert!(reason.contains("release sign --replaces"), "{reason}");
    // One that decides while it is being withdrawn goes back too.
    world.can_revert = true;
    world.act(Input::RollBack("x".into()));
    world.says(canaries[1], Step::Committed);
    let late = world.decide(Input::Tick).unwrap();
    assert_eq!((late.revert, late.event), (vec![canaries[1]], None));
}

/// RELIABILITY P13: waves of 5, 25 and 100 per cent; the model is bad for a quarter of the stations.
#[test]
fn a_model_that_is_bad_for_a_quarter_stops_at_the_first_wave() {
    let (mut stopped, mut third) = (0, 0);
    for seed in 0..400 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..100).collect();
        order.shuffle(&mut rng);
        let bad: BTreeSet<Uuid> = order.into_iter().take(25).map(id).collect();
        let mut plan = waves(&[5.0, 25.0, 100.0]);
        // By default a wave may leave a station behind that is slow to answer, and it may be the bad one.
        plan.rules.commit_share = 1.0;
        let mut world = World::new(plan, 100, u128::from(seed));
        let fate = |id| Some(if bad.contains(&id) { Step::WentBack } else { Step::Committed });
        run(&mut world, &mut rng, fate);
        assert_eq!(world.rollout.state, State::Halted, "seed {seed}");
        let first = world.devices.iter().filter(|d| d.cohort == 0).any(|d| bad.contains(&d.id));
        if first {
            assert!(world.touched.len() <= 5, "seed {seed}: {}", world.touched.len());
        }
        third += usize::from(world.touched.len() > 25);
        stopped += usize::from(first);
    }
    // One failure in twenty is borne, so that a second wave with one bad station or none lets the third
    // begin: after a first wave without any, in about 3 of 1,000 draws.
    assert!(third <= 4, "{third} of 400 reached the third wave");
    // Of five stations, none is bad in 23 of 100 draws: 75·74·73·72·71 / 100·99·98·97·96 = 0.229.
    assert!((280..=340).contains(&stopped), "{stopped} of 400 stopped at the first wave");
}

#[test]
fn one_station_in_twenty_that_fails_stops_the_default_plan_at_its_canaries() {
    let mut stopped = 0;
    for seed in 0..200 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan { rules: waves(&[1.0]).rules, ..Plan::default() };
        let mut world = World::new(plan, 1_000, u128::from(seed));
        let fate = |id: Uuid| {
            Some(if id.as_u128().is_multiple_of(20) { Step::WentBack } else { Step::Committed })
        };
        run(&mut world, &mut rng, fate);
        assert_eq!(world.rollout.state, State::Halted, "seed {seed}");
        stopped += usize::from(world.rollout.cohort == 0);
    }
    // Of 100 canaries none fails in 4.5 of 1,000 draws: C(950, 100) / C(1000, 100).
    assert!(stopped >= 196, "{stopped} of 200");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever stations do, a rollout ends or says why not, and only tells those whose turn it is.
    #[test]
    fn every_rollout_ends(
        seed: u64, count in 4_usize..60, fails in 0.0..0.3_f64, silent in 0.0..0.3_f64,
        failed_share in 0.0..0.3_f64, silent_share in 0.0..0.5_f64, commit in 0.3..1.0_f64,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut plan = waves(&[10.0, 50.0, 100.0]);
        plan.rules.max_failed_share = failed_share;
        plan.rules.max_silent_share = silent_share;
        plan.rules.commit_share = commit;
        prop_assert!(plan.faults().is_empty());
        let fates: BTreeMap<Uuid, Option<Step>> = (0..count)
            .map(|n| {
                let draw: f64 = rng.random();
                let fate = match draw {
                    d if d < fails => Some(Step::Refused),
                    d if d < fails + silent => None,
                    _ => Some(Step::Committed),
                };
                (id(n), fate)
            })
            .collect();
        let mut world = World::new(plan, count, u128::from(seed));
        run(&mut world, &mut rng, |id| fates[&id]);
        let committed = world.devices.iter().filter(|d| d.step == Step::Committed).count();
        match world.rollout.state {
            State::Done => prop_assert!(committed as f64 >= commit * count as f64 - 3.0),
            State::Halted => prop_assert!(world.rollout.reason.is_some()),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn tails_are_exact() {
    // By hand and from tables.
    for (found, wanted) in [
        (binomial_tail(3, 3, 0.5), 0.125),
        (binomial_tail(0, 10, 0.3), 1.0),
        (binomial_tail(8, 10, 0.5), 56.0 / 1_024.0),
        (binomial_tail(1, 20, 0.05), 1.0 - 0.95_f64.powi(20)),
        (binomial_tail(5, 4, 0.5), 0.0),
        (poisson_tail(1, 2.0), 1.0 - (-2.0_f64).exp()),
        (poisson_tail(3, 1.0), 1.0 - 2.5 * (-1.0_f64).exp()),
        (poisson_tail(20, 1.0), 1.587_527_601e-19),
        (poisson_tail(0, 1.0), 1.0),
        (poisson_tail(1, 0.0), 0.0),
    ] {
        let slack = wanted * 1e-6 + 1e-300;
        assert!((found - wanted).abs() <= slack, "{found} is not {wanted}");
    }
    assert!((poisson_tail(1_000, 1_000.0) - 0.5).abs() < 0.02);
    assert!((binomial_tail(5_000, 10_000, 0.5) - 0.5).abs() < 0.01);
}

#[test]
fn more_rejected_alerts_than_before_send_it_back() {
    let rule = FalseAlarmRule::default();
    let counts = |rejected_new, days_new, rejected_old, days_old| FieldCounts {
        rejected_new,
        days_new,
        rejected_old,
        days_old,
    };
    // Ten stations, a day; a fortnight of history with five false alarms.
    assert_eq!(worse(&rule, &counts(2, 10.0, 5, 140.0)), None, "two decide nothing");
    assert_eq!(worse(&rule, &counts(3, 10.0, 5, 140.0)), None);
    let reason = worse(&rule, &counts(5, 10.0, 5, 140.0)).unwrap();
    assert!(reason.contains("0.50 alerts per station-day"), "{reason}");
    assert_eq!(worse(&rule, &counts(50, 100.0, 70, 140.0)), None, "as bad as the one before");
    // Without history, against what is expected: one a station-week.
    assert_eq!(worse(&rule, &counts(4, 7.0, 0, 0.5)), None);
    assert!(worse(&rule, &counts(6, 7.0, 0, 0.5)).is_some());

    let mut world = World::new(waves(&[50.0, 100.0]), 8, 1);
    world.act(Input::Start);
    for id in world.offered() {
        world.says(id, Step::Committed);
    }
    world.field = counts(9, 4.0, 0, 56.0);
    for state in [State::Running, State::Paused, State::Halted, State::Done] {
        world.rollout.state = state;
        let back = world.decide(Input::Tick).unwrap();
        assert_eq!((back.rollout.state, back.revert.len()), (State::RolledBack, 4), "{state:?}");
        assert!(back.rollout.reason.unwrap().contains("reviewers rejected"));
    }
}

/// The rule is asked again at every verdict. A release that is no worse must seldom be sent back even
/// so.
#[test]
fn a_release_that_is_no_worse_is_seldom_sent_back() {
    let rule = FalseAlarmRule::default();
    let (rate, stations, days) = (1.0 / 7.0, 20.0, 14.0);
    let (mut rng, mut sent_back, rounds) = (SmallRng::seed_from_u64(1), 0, 4_000);
    for _ in 0..rounds {
        let arrivals = |rng: &mut SmallRng| {
            // Days on which one of all stations raises a false alarm.
            let (mut day, mut found) = (0.0, Vec::new());
            loop {
                day -= (1.0 - rng.random::<f64>()).ln() / (rate * stations);
                if day > days {
                    return found;
                }
                found.push(day);
            }
        };
        let rejected_old = arrivals(&mut rng).len() as u32;
        let days_old = stations * days;
        let flagged = arrivals(&mut rng).iter().zip(1..).any(|(day, rejected_new)| {
            let days_new = day * stations;
            worse(&rule, &FieldCounts { rejected_new, days_new, rejected_old, days_old }).is_some()
        });
        sent_back += usize::from(flagged);
    }
    let share = sent_back as f64 / f64::from(rounds);
    assert!(share < 0.02, "{share} of the releases that are no worse were sent back");
}
