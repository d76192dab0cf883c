//! Primates: loud calls of monkeys and apes over long distances.

use super::{callers::Species, chance::Chance, note::Note};

/// Explosive falling barks in series: guenons' "pyow". The nearest that an animal comes to a shot.
pub(super) fn guenon(chance: &mut Chance) -> Species {
    let hz = chance.between_log(650.0, 1_100.0);
    Species {
        grammar: Box::new(move |chance| {
            (0..chance.whole(2, 8))
                .map(|_| {
                    let hz = hz * chance.between(0.95, 1.06);
                    Note::whistle(chance.between(0.06, 0.13), [hz * 1.7, hz, hz * 0.55])
                        .with_partials(&[1.0, 0.5, 0.25, 0.1])
                        .with_rough(0.3)
                        .after(chance.between(0.5, 1.6))
                        .with_shape(0.06, 0.2)
                })
                .collect()
        }),
        spl_1m_db: 98.0,
        pause_s: (4.0, 15.0),
        bout: (1, 5),
        rest_s: 260.0,
        distance_m: (50.0, 300.0),
        animals: (1, 2),
    }
}

/// Rolling roars of colobus monkeys: slow pulses with a low formant.
pub(super) fn colobus(chance: &mut Chance) -> Species {
    let hz = chance.between_log(320.0, 560.0);
    let pulses = chance.between(14.0, 24.0);
    Species {
        grammar: Box::new(move |chance| {
            (0..chance.whole(3, 10))
                .map(|_| {
                    Note::whistle(chance.between(0.5, 1.1), [hz, hz * 1.06, hz * 0.9])
                        .with_partials(&[1.0, 0.8, 0.5, 0.25, 0.1])
                        .with_tremolo(0.9, pulses)
                        .with_rough(0.9)
                        .after(chance.between(0.15, 0.4))
                        .with_shape(0.15, 0.65)
                })
                .collect()
        }),
        spl_1m_db: 102.0,
        pause_s: (6.0, 25.0),
        bout: (1, 4),
        rest_s: 400.0,
        distance_m: (100.0, 600.0),
        animals: (1, 1),
    }
}

/// Hoots that rise and quicken: chimpanzees' pant-hoot, gibbons' song.
pub(super) fn hooter(chance: &mut Chance) -> Species {
    let hz = chance.between_log(380.0, 800.0);
    let climb = chance.between(1.2, 2.2);
    Species {
        grammar: Box::new(move |chance| {
            let count = chance.whole(6, 14);
            (0..count)
                .map(|index| {
                    let place = index as f32 / count as f32;
                    let hz = hz * climb.powf(place * place) * chance.between(0.97, 1.03);
                    Note::whistle(0.2 + 0.5 * place, [hz * 0.85, hz * 1.12, hz * 0.92])
                        .with_partials(&[1.0, 0.35, 0.15, 0.06])
                        .with_rough(0.15)
                        .after(0.32 - 0.2 * place)
                        .with_shape(0.25, 0.5)
                        .at_loudness(0.35 + 0.65 * place)
                })
                .collect()
        }),
        spl_1m_db: 104.0,
        pause_s: (10.0, 40.0),
        bout: (1, 3),
        rest_s: 420.0,
        distance_m: (120.0, 700.0),
        animals: (1, 2),
    }
}
