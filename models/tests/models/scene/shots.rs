//! Laws of single shots.

use ecosight_models::scene::{
    Air, Chance, Propagation, SHOT_LEAD_SAMPLES, Vegetation, Weapon, WeaponKind, gunshot,
    gunshot_rounds,
};

use super::{band_power, decibel};

fn path(distance_m: f32, vegetation: Vegetation) -> Propagation {
    Propagation {
        distance_m,
        bearing_deg: 90.0,
        air: Air::default(),
        vegetation,
        source_height_m: 1.5,
        receiver_height_m: 4.0,
        ridge: None,
    }
}

fn one(kind: WeaponKind, path: &Propagation, seed: u64) -> Vec<f32> {
    gunshot_rounds(&Weapon::new(kind), path, &[0.0], &mut Chance::new(seed))
}

#[test]
fn equal_chances_give_equal_shots() {
    let path = path(300.0, Vegetation::RAINFOREST);
    let weapon = Weapon::new(WeaponKind::AssaultRifle);
    let shot = |seed| gunshot(&weapon, &path, &mut Chance::new(seed));
    assert!(shot(4) == shot(4));
    assert!(shot(4) != shot(5));
    assert!(shot(4).iter().all(|v| v.is_finite()));
}

/// Mean power in a band over several forests, so that one drawn tail does not decide.
fn power(distance_m: f32, low_hz: f64, high_hz: f64) -> f64 {
    (0..4)
        .map(|seed| {
            let shot = one(WeaponKind::Shotgun, &path(distance_m, Vegetation::SAVANNA), seed);
            let front = SHOT_LEAD_SAMPLES - 512..SHOT_LEAD_SAMPLES + 1_536;
            band_power(&shot[front], low_hz, high_hz)
        })
        .sum()
}

#[test]
fn doubling_the_distance_costs_six_decibels_and_what_absorbs() {
    for (near, far) in [(100.0, 200.0), (200.0, 400.0), (400.0, 800.0)] {
        let fall = |low, high| decibel(power(near, low, high) / power(far, low, high));
        let low = fall(80.0, 400.0);
        let high = fall(1_500.0, 3_000.0);
        // The ageing of the shock adds less than 1 dB; the ground may add or take some.
        assert!((4.0..12.0).contains(&low), "{near} to {far} m, low band: {low} dB");
        assert!(high > low + 0.5, "{near} to {far} m: low {low} dB, high {high} dB");
    }
}

#[test]
fn a_forest_swallows_more_than_a_plain_and_rings_longer() {
    let levels = |vegetation| {
        let shot = one(WeaponKind::Shotgun, &path(500.0, vegetation), 3);
        let front = band_power(&shot[SHOT_LEAD_SAMPLES - 512..SHOT_LEAD_SAMPLES + 1_536], 300.0, 900.0);
        let tail = band_power(&shot[SHOT_LEAD_SAMPLES + 6_400..SHOT_LEAD_SAMPLES + 16_000], 300.0, 900.0);
        (decibel(front), decibel(tail / front))
    };
    let (plain, plain_tail) = levels(Vegetation::SAVANNA);
    let (forest, forest_tail) = levels(Vegetation::RAINFOREST);
    assert!(forest < plain - 3.0, "front: forest {forest} dB, plain {plain} dB");
    assert!(forest_tail > plain_tail + 5.0, "tail: forest {forest_tail}, plain {plain_tail} dB");
}

#[test]
fn distant_rainforest_shots_have_the_spectrum_and_tail_of_recorded_ones() {
    // Medians of 85 recorded rainforest shots with at least 24 dB of transient ratio: against
    // 240–480 Hz, 480–960 Hz lies 2–4 dB lower and 960–1900 Hz 18–21 dB; 20 ms at 0.1 s lie
    // 10–12 dB under the onset, at 0.5 s 15–17 dB. Models of them stay within a few dB.
    let (mut middle, mut high, mut early, mut late) = (0.0, 0.0, 0.0, 0.0);
    let mut count = 0.0;
    for (seed, distance_m) in (0..).zip([450.0, 550.0, 650.0, 750.0]) {
        for kind in [WeaponKind::Shotgun, WeaponKind::AssaultRifle] {
            let shot = one(kind, &path(distance_m, Vegetation::RAINFOREST), seed);
            let at = |start_s: f32, length: usize| {
                let start = SHOT_LEAD_SAMPLES + (start_s * 16_000.0) as usize;
                &shot[start..start + length]
            };
            let onset = &shot[SHOT_LEAD_SAMPLES - 512..SHOT_LEAD_SAMPLES + 512];
            let base = band_power(onset, 240.0, 480.0);
            middle += decibel(band_power(onset, 480.0, 960.0) / base);
            high += decibel(band_power(onset, 960.0, 1_900.0) / base);
            early += decibel(band_power(at(0.08, 1_024), 240.0, 480.0) / base);
            late += decibel(band_power(at(0.45, 2_048), 240.0, 480.0) / base);
            count += 1.0;
        }
    }
    let [middle, high, early, late] = [middle, high, early, late].map(|sum| sum / count);
    assert!((-9.0..0.0).contains(&middle), "480–960 Hz: {middle} dB");
    assert!((-27.0..-12.0).contains(&high), "960–1900 Hz: {high} dB");
    // The pieces here are longer than the onset itself, hence 5 dB more than in 20 ms.
    assert!((-15.0..-3.0).contains(&early), "after 0.1 s: {early} dB");
    assert!((-22.0..-8.0).contains(&late), "after 0.5 s: {late} dB");
}

#[test]
fn a_burst_has_its_rounds() {
    let shot = gunshot_rounds(
        &Weapon::new(WeaponKind::AssaultRifle),
        &path(60.0, Vegetation::SAVANNA),
        &[0.0, 0.1, 0.2],
        &mut Chance::new(1),
    );
    let level = |start_s: f32| {
        let start = SHOT_LEAD_SAMPLES + (start_s * 16_000.0) as usize - 32;
        shot[start..start + 320].iter().map(|v| v * v).sum::<f32>()
    };
    for time in [0.0, 0.1, 0.2] {
        assert!(level(time) > 20.0 * level(time + 0.06), "round at {time} s");
    }
}

#[test]
fn bigger_charges_are_louder_and_deeper() {
    let measure = |kind| {
        let shot = one(kind, &path(200.0, Vegetation::DRY_FOREST), 2);
        let front = &shot[SHOT_LEAD_SAMPLES - 512..SHOT_LEAD_SAMPLES + 1_536];
        let low = band_power(front, 60.0, 300.0);
        (decibel(low), decibel(low / band_power(front, 1_000.0, 3_000.0)))
    };
    let (musket, musket_depth) = measure(WeaponKind::MuzzleLoader);
    let (small, small_depth) = measure(WeaponKind::SmallRifle);
    assert!(musket > small + 10.0, "{musket} against {small} dB");
    assert!(musket_depth > small_depth + 6.0, "{musket_depth} against {small_depth} dB");
}
