//! Birds: song grammars of several families, from which each scene draws its own species.

use super::{callers::Species, chance::Chance, note::Note};

const PURE: [f32; 2] = [1.0, 0.04];
const REEDY: [f32; 5] = [1.0, 0.6, 0.35, 0.2, 0.1];
const HARSH: [f32; 9] = [0.6, 0.9, 1.0, 0.8, 0.6, 0.5, 0.35, 0.25, 0.15];

/// Clear whistles in a fixed short tune, as thrushes, robin-chats and orioles sing.
pub(super) fn whistler(chance: &mut Chance) -> Species {
    let base = chance.between_log(1_500.0, 3_600.0);
    let tune: Vec<(f32, f32, f32, f32)> = (0..chance.whole(2, 5))
        .map(|_| {
            let hz = base * chance.between_log(0.72, 1.4);
            (hz, chance.between(0.85, 1.18), chance.between(0.08, 0.34), chance.between(0.03, 0.16))
        })
        .collect();
    Species {
        grammar: Box::new(move |chance| {
            let shift = 1.0 + 0.01 * chance.normal();
            tune.iter()
                .map(|&(hz, glide, length, gap)| {
                    let hz = hz * shift;
                    Note::whistle(length, [hz, hz * glide.sqrt() * 1.02, hz * glide])
                        .after(gap)
                        .at_loudness(chance.between(0.6, 1.0))
                })
                .collect()
        }),
        spl_1m_db: 88.0,
        pause_s: (1.2, 6.0),
        bout: (4, 18),
        rest_s: 45.0,
        distance_m: (14.0, 110.0),
        animals: (1, 3),
    }
}

/// Fast repeated syllables, as cisticolas, finches and kingfishers give.
pub(super) fn triller(chance: &mut Chance) -> Species {
    let (high, low) = (chance.between_log(3_000.0, 6_800.0), chance.between(0.55, 0.85));
    let rate = chance.between_log(7.0, 26.0);
    let (count, fall) = (chance.whole(8, 34), chance.between(0.88, 1.06));
    Species {
        grammar: Box::new(move |chance| {
            let count = count + chance.whole(0, 5);
            (0..count)
                .map(|index| {
                    let place = index as f32 / count as f32;
                    let hz = high * fall.powf(place);
                    Note::whistle(0.62 / rate, [hz, hz * low.sqrt(), hz * low])
                        .after(0.38 / rate)
                        .with_shape(0.1, 0.3)
                        .at_loudness((0.3 + 2.0 * place).min(1.0))
                })
                .collect()
        }),
        spl_1m_db: 84.0,
        pause_s: (2.5, 9.0),
        bout: (3, 12),
        rest_s: 40.0,
        distance_m: (10.0, 70.0),
        animals: (1, 2),
    }
}

/// A hurried medley of short, different notes: warblers, sunbirds, white-eyes.
pub(super) fn warbler(chance: &mut Chance) -> Species {
    let repertoire: Vec<Note> = (0..14)
        .map(|_| {
            let hz = chance.between_log(2_300.0, 6_800.0);
            let (up, down) = (chance.between_log(0.7, 1.4), chance.between_log(0.7, 1.4));
            let note = Note::whistle(chance.between(0.035, 0.16), [hz, hz * up, hz * up * down]);
            if chance.happens(0.25) {
                note.with_vibrato(chance.between(0.03, 0.12), chance.between(25.0, 70.0))
            } else {
                note
            }
        })
        .collect();
    Species {
        grammar: Box::new(move |chance| {
            let count = chance.whole(6, 22);
            let mut last = 0;
            (0..count)
                .map(|_| {
                    if !chance.happens(0.35) {
                        last = chance.whole(0, repertoire.len() as u32 - 1) as usize;
                    }
                    repertoire[last]
                        .clone()
                        .after(chance.between(0.015, 0.09))
                        .at_loudness(chance.between(0.4, 1.0))
                })
                .collect()
        }),
        spl_1m_db: 82.0,
        pause_s: (1.5, 8.0),
        bout: (3, 14),
        rest_s: 50.0,
        distance_m: (8.0, 60.0),
        animals: (1, 3),
    }
}

/// Soft low coos in the rhythm of doves and pigeons.
pub(super) fn dove(chance: &mut Chance) -> Species {
    let hz = chance.between_log(380.0, 620.0);
    let rhythm: Vec<(f32, f32, f32)> = (0..chance.whole(3, 7))
        .map(|_| (chance.between(0.1, 0.42), chance.between(0.06, 0.24), chance.between(0.94, 1.08)))
        .collect();
    Species {
        grammar: Box::new(move |chance| {
            rhythm
                .iter()
                .map(|&(length, gap, pitch)| {
                    let hz = hz * pitch;
                    Note::whistle(length, [hz * 0.95, hz, hz * 0.96])
                        .with_partials(&[1.0, 0.12, 0.03])
                        .after(gap)
                        .with_shape(0.3, 0.3)
                        .at_loudness(chance.between(0.75, 1.0))
                })
                .collect()
        }),
        spl_1m_db: 80.0,
        pause_s: (0.8, 3.5),
        bout: (4, 16),
        rest_s: 70.0,
        distance_m: (15.0, 90.0),
        animals: (1, 2),
    }
}

/// A long falling or hurrying series of hoots: coucals, turacos, wood-owls by day.
pub(super) fn coucal(chance: &mut Chance) -> Species {
    let hz = chance.between_log(430.0, 850.0);
    let (count, fall, hurry) = (chance.whole(8, 20), chance.between(0.7, 1.12), chance.between(0.8, 1.0));
    Species {
        grammar: Box::new(move |_| {
            let mut gap = 0.22;
            (0..count)
                .map(|index| {
                    let hz = hz * fall.powf(index as f32 / count as f32);
                    gap *= hurry.powf(0.5);
                    Note::whistle(0.13, [hz * 0.97, hz * 1.03, hz * 0.95])
                        .with_partials(&[1.0, 0.18, 0.05])
                        .after(gap.max(0.05))
                        .with_shape(0.25, 0.35)
                })
                .collect()
        }),
        spl_1m_db: 90.0,
        pause_s: (6.0, 20.0),
        bout: (1, 4),
        rest_s: 120.0,
        distance_m: (40.0, 220.0),
        animals: (1, 2),
    }
}

/// One note again and again for a minute: barbets and tinkerbirds.
pub(super) fn tinkerbird(chance: &mut Chance) -> Species {
    let hz = chance.between_log(750.0, 1_500.0);
    let gap = chance.between(0.3, 0.9);
    let double = chance.happens(0.3);
    Species {
        grammar: Box::new(move |chance| {
            let count = chance.whole(14, 45);
            (0..count)
                .map(|index| {
                    let gap = if double && index % 2 == 1 { 0.09 } else { gap };
                    Note::whistle(0.1, [hz * 1.02, hz, hz * 0.98])
                        .with_partials(&[1.0, 0.1])
                        .after(gap * (1.0 + 0.02 * chance.normal()))
                        .with_shape(0.12, 0.4)
                })
                .collect()
        }),
        spl_1m_db: 84.0,
        pause_s: (3.0, 12.0),
        bout: (1, 3),
        rest_s: 80.0,
        distance_m: (15.0, 120.0),
        animals: (1, 2),
    }
}

/// Screeches and chatter: parrots, glossy starlings, babblers.
pub(super) fn screecher(chance: &mut Chance) -> Species {
    let hz = chance.between_log(700.0, 1_500.0);
    let length = chance.between(0.08, 0.35);
    let rate = chance.between(18.0, 60.0);
    Species {
        grammar: Box::new(move |chance| {
            let count = chance.whole(1, 6);
            (0..count)
                .map(|_| {
                    let hz = hz * chance.between_log(0.85, 1.25);
                    Note::whistle(length * chance.between(0.7, 1.3), [hz, hz * 1.18, hz * 0.86])
                        .with_partials(&HARSH)
                        .with_rough(0.9)
                        .with_vibrato(0.05, rate)
                        .after(chance.between(0.05, 0.4))
                        .at_loudness(chance.between(0.4, 1.0))
                })
                .collect()
        }),
        spl_1m_db: 87.0,
        pause_s: (0.5, 5.0),
        bout: (2, 9),
        rest_s: 90.0,
        distance_m: (25.0, 160.0),
        animals: (1, 3),
    }
}

/// Nasal braying that carries over a valley: hornbills.
pub(super) fn hornbill(chance: &mut Chance) -> Species {
    let hz = chance.between_log(380.0, 720.0);
    Species {
        grammar: Box::new(move |chance| {
            let count = chance.whole(3, 10);
            (0..count)
                .map(|index| {
                    let hz = hz * (1.0 + 0.02 * index as f32) * chance.between(0.95, 1.05);
                    Note::whistle(chance.between(0.18, 0.5), [hz * 0.9, hz * 1.15, hz * 0.8])
                        .with_partials(&[0.5, 1.0, 0.9, 0.7, 0.5, 0.3, 0.2])
                        .with_rough(0.35)
                        .after(chance.between(0.1, 0.4))
                        .with_shape(0.2, 0.5)
                })
                .collect()
        }),
        spl_1m_db: 98.0,
        pause_s: (4.0, 15.0),
        bout: (1, 5),
        rest_s: 200.0,
        distance_m: (60.0, 350.0),
        animals: (1, 2),
    }
}

/// Hoots in the dark.
pub(super) fn owl(chance: &mut Chance) -> Species {
    let hz = chance.between_log(330.0, 780.0);
    let notes: Vec<(f32, f32)> = (0..chance.whole(1, 5))
        .map(|_| (chance.between(0.12, 0.5), chance.between(0.12, 0.6)))
        .collect();
    let quaver = chance.happens(0.4);
    Species {
        grammar: Box::new(move |_| {
            notes
                .iter()
                .map(|&(length, gap)| {
                    let note = Note::whistle(length, [hz * 0.94, hz * 1.02, hz * 0.93])
                        .with_partials(&[1.0, 0.14, 0.04])
                        .after(gap)
                        .with_shape(0.25, 0.45);
                    if quaver { note.with_tremolo(0.7, 13.0) } else { note }
                })
                .collect()
        }),
        spl_1m_db: 90.0,
        pause_s: (5.0, 18.0),
        bout: (3, 12),
        rest_s: 150.0,
        distance_m: (40.0, 250.0),
        animals: (1, 2),
    }
}

/// The endless churr of nightjars.
pub(super) fn nightjar(chance: &mut Chance) -> Species {
    let hz = chance.between_log(1_000.0, 2_000.0);
    let rate = chance.between(18.0, 42.0);
    Species {
        grammar: Box::new(move |chance| {
            vec![
                Note::whistle(chance.between(2.0, 9.0), [hz, hz * 1.02, hz * 0.98])
                    .with_partials(&REEDY)
                    .with_tremolo(1.0, rate)
                    .with_shape(0.05, 0.9),
            ]
        }),
        spl_1m_db: 82.0,
        pause_s: (2.0, 12.0),
        bout: (2, 8),
        rest_s: 120.0,
        distance_m: (30.0, 150.0),
        animals: (1, 1),
    }
}

/// Short contact calls of small flocks.
pub(super) fn contact_caller(chance: &mut Chance) -> Species {
    let hz = chance.between_log(3_500.0, 6_900.0);
    let glide = chance.between_log(0.7, 1.2);
    Species {
        grammar: Box::new(move |chance| {
            (0..chance.whole(1, 3))
                .map(|_| {
                    let hz = hz * (1.0 + 0.03 * chance.normal());
                    Note::whistle(chance.between(0.03, 0.09), [hz, hz * glide.sqrt(), hz * glide])
                        .with_partials(&PURE)
                        .after(chance.between(0.04, 0.15))
                })
                .collect()
        }),
        spl_1m_db: 74.0,
        pause_s: (0.4, 3.5),
        bout: (3, 25),
        rest_s: 30.0,
        distance_m: (5.0, 45.0),
        animals: (2, 5),
    }
}
