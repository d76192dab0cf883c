//! Frogs: the pulsed and whistled calls of a swamp at night.

use super::{callers::Species, chance::Chance, note::Note};

/// Short rising peeps, one a second.
pub(super) fn peeper(chance: &mut Chance) -> Species {
    let hz = chance.between_log(2_000.0, 3_900.0);
    let (length, rise) = (chance.between(0.04, 0.14), chance.between(1.0, 1.18));
    let period = chance.between(0.5, 1.6);
    Species {
        grammar: Box::new(move |chance| {
            let hz = hz * (1.0 + 0.012 * chance.normal());
            vec![
                Note::whistle(length, [hz, hz * rise.sqrt(), hz * rise])
                    .with_partials(&[1.0, 0.1])
                    .with_shape(0.2, 0.5),
            ]
        }),
        spl_1m_db: 86.0,
        pause_s: (period * 0.85, period * 1.25),
        bout: (8, 60),
        rest_s: 25.0,
        distance_m: (12.0, 90.0),
        animals: (2, 5),
    }
}

/// Croaks: a carrier cut into pulses.
pub(super) fn croaker(chance: &mut Chance) -> Species {
    let hz = chance.between_log(600.0, 1_700.0);
    let (pulses, length) = (chance.between_log(30.0, 110.0), chance.between(0.15, 0.8));
    let count = chance.whole(1, 4);
    Species {
        grammar: Box::new(move |chance| {
            (0..count)
                .map(|_| {
                    let hz = hz * (1.0 + 0.02 * chance.normal());
                    Note::whistle(length, [hz * 0.95, hz, hz * 1.03])
                        .with_partials(&[1.0, 0.7, 0.35, 0.15])
                        .with_tremolo(1.0, pulses)
                        .with_rough(0.2)
                        .after(chance.between(0.12, 0.3))
                        .with_shape(0.25, 0.6)
                })
                .collect()
        }),
        spl_1m_db: 88.0,
        pause_s: (0.6, 3.0),
        bout: (4, 30),
        rest_s: 50.0,
        distance_m: (12.0, 120.0),
        animals: (2, 4),
    }
}

/// Wooden clicks of reed frogs.
pub(super) fn clicker(chance: &mut Chance) -> Species {
    let hz = chance.between_log(2_200.0, 4_200.0);
    let rate = chance.between(3.0, 9.0);
    Species {
        grammar: Box::new(move |chance| {
            (0..chance.whole(2, 9))
                .map(|_| {
                    Note::whistle(0.018, [hz * 1.05, hz, hz * 0.97])
                        .with_partials(&[1.0, 0.2])
                        .after((1.0 / rate - 0.018) * chance.between(0.92, 1.1))
                        .with_shape(0.05, 0.15)
                })
                .collect()
        }),
        spl_1m_db: 88.0,
        pause_s: (0.5, 4.0),
        bout: (4, 30),
        rest_s: 35.0,
        distance_m: (10.0, 80.0),
        animals: (2, 4),
    }
}
