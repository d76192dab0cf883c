//! A microphone that comes, goes and fails: what is said of it, and when.

use std::fs;
use std::os::unix::fs::symlink;

use ecosight_agent::health::Health;
use ecosight_agent::sound_check::{Deafness, Fault, SoundCheck};
use ecosight_agent::source::{Supervision, usb};
use ecosight_shared::SourceState;
use tempfile::tempdir;

use crate::support::Random;

const RATE: usize = 16_000;

/// White noise of this largest magnitude.
fn noise(seed: u64, len: usize, magnitude: f32) -> Vec<f32> {
    let mut random = Random(seed);
    (0..len).map(|_| (random.below(65_536) as f32 / 32_768.0 - 1.0) * magnitude).collect()
}

fn faults(samples: &[f32]) -> Vec<Fault> {
    let mut check = SoundCheck::default();
    check.push(samples);
    let measurement = check.measure();
    Fault::ALL.into_iter().filter(|fault| measurement.has(*fault)).collect()
}

/// What 16 bits leave of a sample.
fn in_16_bits(sample: f32) -> f32 {
    (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) / 32_768.0
}

#[test]
fn each_fault_is_found_and_no_other() {
    let forest = noise(1, 10 * RATE, 0.003);
    assert_eq!(faults(&forest), []);
    assert_eq!(faults(&vec![0.0; 10 * RATE]), [Fault::FlatLine, Fault::Faint]);
    let mut dies: Vec<f32> = forest.clone();
    dies[5 * RATE..].fill(0.01);
    assert_eq!(faults(&dies), [Fault::FlatLine]);
    assert_eq!(faults(&noise(2, 10 * RATE, 3e-5)), [Fault::Faint]);
    let loud: Vec<f32> = noise(3, 10 * RATE, 4.0).iter().map(|s| s.clamp(-1.0, 1.0)).collect();
    assert_eq!(faults(&loud), [Fault::Clipping]);
    let shifted: Vec<f32> = forest.iter().map(|s| s + 0.2).collect();
    assert_eq!(faults(&shifted), [Fault::DcOffset]);
    // Low tones in 16 bits, as of a recorder that samples at 8 kHz.
    let tone = |hz: f32, i: usize| (i as f32 / RATE as f32 * hz * std::f32::consts::TAU).sin();
    let low: Vec<f32> = (0..10 * RATE)
        .map(|i| in_16_bits(0.02 * tone(311.0, i) + 0.01 * tone(1_733.0, i)))
        .collect();
    assert_eq!(faults(&low), [Fault::NoHighBand]);
    // A shot near by clips for milliseconds: that is no fault.
    let mut shot = forest;
    shot[8_000..8_200].fill(1.0);
    assert_eq!(faults(&shot), []);
}

#[test]
fn levels_are_those_of_a_sine() {
    let mut check = SoundCheck::default();
    let sine: Vec<f32> =
        (0..RATE).map(|i| 0.5 * (i as f32 * 0.25 * std::f32::consts::TAU / 2.0).sin()).collect();
    check.push(&sine);
    let measured = check.measure();
    assert!((measured.level_dbfs + 6.02).abs() < 0.1, "{measured:?}");
    assert!((measured.seconds - 1.0).abs() < 1e-9);
}

/// Pushes `seconds` of sound in blocks; gives what was told last, if anything.
fn push(
    deafness: &mut Deafness,
    seconds: usize,
    sound: impl Fn(u64) -> Vec<f32>,
) -> Option<Vec<Fault>> {
    let mut told = None;
    for second in 0..seconds {
        told = deafness.push(&sound(second as u64 + 1)).or(told);
    }
    told
}

#[test]
fn a_dead_input_is_told_within_a_minute_and_taken_back_after_two_good_ones() {
    let mut deafness = Deafness::default();
    let good = |second| noise(second, RATE, 0.003);
    let dead = |_| vec![0.0; RATE];
    assert_eq!(push(&mut deafness, 300, good), None);
    assert_eq!(push(&mut deafness, 30, dead), None, "one test may fail");
    assert_eq!(push(&mut deafness, 30, dead), Some(vec![Fault::FlatLine]));
    assert_eq!(push(&mut deafness, 60, good), None, "it may come back for a moment only");
    assert_eq!(push(&mut deafness, 30, dead), None);
    assert_eq!(push(&mut deafness, 90, good), None);
    assert_eq!(push(&mut deafness, 30, good), Some(vec![]));
}

#[test]
fn the_slower_faults_are_judged_by_the_hour() {
    let mut deafness = Deafness::default();
    let faint = |second| noise(second, RATE, 2e-5);
    let good = |second| noise(second, RATE, 0.003);
    // Half an hour of a weak signal is weather.
    push(&mut deafness, 1_800, good);
    assert_eq!(push(&mut deafness, 1_800, faint), None);
    assert_eq!(push(&mut deafness, 3_600, faint), Some(vec![Fault::Faint]));
    assert_eq!(push(&mut deafness, 3_599, good), None);
    assert_eq!(push(&mut deafness, 1, good), Some(vec![]));
}

#[test]
fn a_station_with_a_bad_microphone_is_alarmed_and_no_read_makes_it_healthy() {
    let health = Health::default();
    health.set_source(SourceState::Healthy);
    let before = health.news();
    health.set_faults(vec![Fault::FlatLine]);
    assert!(health.news() > before, "worth telling at once");
    health.set_source(SourceState::Healthy);
    assert_eq!(health.source(), SourceState::Alarmed);
    health.set_source(SourceState::Recovering);
    assert_eq!(health.source(), SourceState::Recovering);
    health.set_source(SourceState::Healthy);
    health.set_faults(vec![]);
    assert_eq!(health.source(), SourceState::Healthy);
}

#[test]
fn it_is_tried_for_ever_and_called_by_ever_worse_names() {
    let mut supervision = Supervision::default();
    let mut states = Vec::new();
    let mut waited = 0.0;
    for _ in 0..10_000 {
        let (state, pause) = supervision.failed();
        assert!((1.0..=30.0).contains(&pause.as_secs_f64()), "{pause:?}");
        if states.last().is_none_or(|(last, _)| *last != state) {
            states.push((state, waited));
        }
        waited += pause.as_secs_f64();
    }
    let names: Vec<SourceState> = states.iter().map(|(state, _)| *state).collect();
    assert_eq!(names, [SourceState::Recovering, SourceState::Escalated, SourceState::Failed]);
    assert!((20.0..120.0).contains(&states[1].1), "a person looks after a minute: {states:?}");
    assert!((300.0..900.0).contains(&states[2].1), "{states:?}");
    supervision.heard();
    assert_eq!(supervision.failed().0, SourceState::Recovering);
}

#[test]
fn a_sound_card_is_found_by_the_serial_number_of_its_plug() {
    let folder = tempdir().expect("a directory");
    let usb_device = folder.path().join("devices/usb1/1-1");
    let interface = usb_device.join("1-1:1.0");
    let class = folder.path().join("class/sound");
    for directory in [&interface, &class.join("card0"), &class.join("card1")] {
        fs::create_dir_all(directory).expect("made");
    }
    crate::station::write(&usb_device.join("serial"), b"AM-0042\n");
    crate::station::write(&class.join("card0/id"), b"PCH\n");
    crate::station::write(&class.join("card1/id"), b"Device\n");
    symlink(&interface, class.join("card1/device")).expect("linked");
    assert_eq!(usb::card("AM-0042", &class), Ok("plughw:CARD=Device".into()));
    let problem = usb::card("AM-9999", &class).expect_err("not there");
    assert!(problem.contains("AM-9999") && problem.contains("AM-0042 (Device)"), "{problem}");
    let nothing = usb::card("x", &folder.path().join("gone")).expect_err("not there");
    assert!(nothing.contains("none"), "{nothing}");
}
