//! Where sound comes from: the same samples whichever way.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecosight_agent::config::{self, SourceKind, Speed};
use ecosight_agent::health::Health;
use ecosight_agent::source::funnel::{Drained, Outlet, funnel};
use ecosight_agent::source::{self, Begin, RawPcm, Read, Source, SourceError};
use tempfile::tempdir;

use crate::support::{Random, write_wav};

fn noise(seed: u64, len: usize) -> Vec<i16> {
    let mut random = Random(seed);
    (0..len).map(|_| random.below(20_000) as i16 - 10_000).collect()
}

fn settings(kind: SourceKind, path: &Path) -> config::Source {
    config::Source {
        kind,
        path: Some(path.to_owned()),
        speed: Speed::Maximum,
        ..config::Source::default()
    }
}

fn health() -> Arc<Health> {
    Arc::new(Health::default())
}

/// Everything a source gives, and the stream position of each recording's beginning.
fn heard(source: &mut dyn Source, limit: usize) -> (Vec<f32>, Vec<(u64, u64)>) {
    let (mut samples, mut items) = (Vec::new(), Vec::new());
    let mut block = Vec::new();
    while samples.len() < limit {
        block.clear();
        match source.read(&mut block).expect("reads") {
            Read::Item { index } => items.push((index, samples.len() as u64)),
            Read::End => break,
            Read::Gap { lost } => panic!("a gap of {lost}"),
            Read::Sound | Read::Nothing => {}
        }
        samples.append(&mut block);
    }
    (samples, items)
}

fn as_float(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|s| f32::from(*s) / 32_768.0).collect()
}

#[test]
fn a_recording_is_heard_sample_by_sample_and_from_anywhere() {
    let directory = tempdir().expect("a directory");
    let path = directory.path().join("night.wav");
    let samples = noise(1, 200_000);
    write_wav(&path, 16_000, &samples);
    let settings = settings(SourceKind::File, &path);
    let mut whole = source::open(&settings, Begin::default(), &health()).expect("opens");
    assert_eq!(heard(whole.as_mut(), usize::MAX), (as_float(&samples), vec![(0, 0)]));
    for sample in [0, 1, 7_680, 100_001, 199_999, 200_000] {
        let begin = Begin { item: 0, item_start: 0, sample };
        let mut rest = source::open(&settings, begin, &health()).expect("opens");
        let (found, _) = heard(rest.as_mut(), usize::MAX);
        assert_eq!(found, as_float(&samples[sample as usize..]), "from {sample}");
    }
}

#[test]
fn a_directory_is_heard_in_order_and_what_is_no_sound_is_passed_over() {
    let directory = tempdir().expect("a directory");
    let inner = directory.path().join("b");
    std::fs::create_dir(&inner).expect("made");
    let [first, second, third] = [1, 2, 3].map(|seed| noise(seed, 20_000 + seed as usize * 777));
    write_wav(&directory.path().join("a.wav"), 16_000, &first);
    write_wav(&inner.join("1.WAV"), 16_000, &second);
    write_wav(&directory.path().join("c.wav"), 16_000, &third);
    copy(Cursor::new(b"not sound".to_vec()), &inner.join("0.flac"));
    copy(Cursor::new(Vec::new()), &inner.join("2.mp3"));
    copy(Cursor::new(b"read me".to_vec()), &directory.path().join("README.txt"));
    let settings = settings(SourceKind::Directory, directory.path());
    let mut source = source::open(&settings, Begin::default(), &health()).expect("opens");
    let all = [&first[..], &second, &third].concat();
    let starts = [0, first.len() as u64, (first.len() + second.len()) as u64];
    let items = vec![(0, starts[0]), (2, starts[1]), (4, starts[2])];
    assert_eq!(heard(source.as_mut(), usize::MAX), (as_float(&all), items));

    let begin = Begin { item: 2, item_start: starts[1], sample: starts[1] + 5 };
    let mut source = source::open(&settings, begin, &health()).expect("opens");
    let rest = [&second[5..], &third].concat();
    let (found, items) = heard(source.as_mut(), usize::MAX);
    assert_eq!(found, as_float(&rest));
    assert_eq!(items.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn a_loop_goes_round_with_new_numbers() {
    let directory = tempdir().expect("a directory");
    let path = directory.path().join("a.wav");
    let samples = noise(1, 5_000);
    write_wav(&path, 16_000, &samples);
    let settings = config::Source { repeat: true, ..settings(SourceKind::File, &path) };
    let mut source = source::open(&settings, Begin::default(), &health()).expect("opens");
    let (found, items) = heard(source.as_mut(), 14_000);
    assert_eq!(found[5_000..10_000], as_float(&samples));
    assert_eq!(items, [(0, 0), (1, 5_000), (2, 10_000)]);
}

#[test]
fn other_rates_come_out_at_sixteen_kilohertz() {
    let directory = tempdir().expect("a directory");
    let path = directory.path().join("a.wav");
    write_wav(&path, 44_100, &noise(1, 88_200));
    let settings = settings(SourceKind::File, &path);
    let mut source = source::open(&settings, Begin::default(), &health()).expect("opens");
    let (found, _) = heard(source.as_mut(), usize::MAX);
    assert!(found.len().abs_diff(32_000) < 200, "{} samples", found.len());
}

#[test]
fn real_time_takes_real_time() {
    let directory = tempdir().expect("a directory");
    let path = directory.path().join("a.wav");
    write_wav(&path, 16_000, &noise(1, 16_000));
    let settings = config::Source { speed: Speed::RealTime, ..settings(SourceKind::File, &path) };
    let mut source = source::open(&settings, Begin::default(), &health()).expect("opens");
    let started = Instant::now();
    let (found, _) = heard(source.as_mut(), usize::MAX);
    assert_eq!(found.len(), 16_000);
    assert!(started.elapsed() >= Duration::from_millis(990), "{:?}", started.elapsed());
}

#[test]
fn what_cannot_be_heard_says_why() {
    let directory = tempdir().expect("a directory");
    let open = |kind, path: PathBuf| {
        source::open(&settings(kind, &path), Begin::default(), &health()).err().expect("refused")
    };
    let missing = open(SourceKind::File, directory.path().join("gone.wav"));
    assert!(matches!(missing, SourceError::Unreadable { .. }));
    assert!(missing.to_string().contains("gone.wav"), "{missing}");
    let no_directory = open(SourceKind::Directory, directory.path().join("gone"));
    assert!(matches!(no_directory, SourceError::Unreadable { .. }));
    let empty = open(SourceKind::Directory, directory.path().to_owned());
    assert!(matches!(empty, SourceError::Empty { .. }));
    let text = directory.path().join("text.wav");
    copy(Cursor::new(b"not sound".to_vec()), &text);
    let no_sound = open(SourceKind::File, text);
    assert!(matches!(no_sound, SourceError::Undecodable { .. }));
    assert!(no_sound.to_string().contains("text.wav"), "{no_sound}");
}

#[test]
fn raw_samples_come_from_a_pipe_however_it_cuts_them() {
    /// Gives 1 to 7 bytes at a time.
    struct Dribble(Cursor<Vec<u8>>, usize);
    impl std::io::Read for Dribble {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = self.1 % 7 + 1;
            let len = self.1.min(buffer.len());
            self.0.read(&mut buffer[..len])
        }
    }
    let samples = noise(1, 30_000);
    let mut bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    bytes.push(0x7f);
    let settings = config::Source {
        kind: SourceKind::Stdin,
        speed: Speed::Maximum,
        ..config::Source::default()
    };
    let mut source =
        RawPcm::new(Dribble(Cursor::new(bytes), 0), &settings, health()).expect("opens");
    let (found, _) = heard(&mut source, usize::MAX);
    assert_eq!(found, as_float(&samples));
}

/// The sample at a place of a sound whose every sample tells where it is.
pub(crate) fn ramp(place: u64) -> i16 {
    (place % 32_000) as i16
}

/// Checks that sound between gaps is whole and that each gap lies where sound is missing; gives the samples
/// heard and the gaps.
pub(crate) fn check_ramp(reads: Vec<(Read, Vec<f32>)>) -> (u64, Vec<u64>) {
    let (mut place, mut heard, mut gaps) = (0, 0, Vec::new());
    for (read, samples) in reads {
        if let Read::Gap { lost } = read {
            assert!(samples.is_empty(), "a gap brings no sound");
            place += lost;
            gaps.push(lost);
        }
        for sample in samples {
            assert_eq!((sample * 32_768.0) as i16, ramp(place), "at {place}, after gaps {gaps:?}");
            place += 1;
            heard += 1;
        }
    }
    (heard, gaps)
}

#[test]
fn a_late_listener_loses_samples_of_a_live_pipe_and_they_are_counted() {
    let settings = config::Source { kind: SourceKind::Stdin, ..config::Source::default() };
    let health = health();
    let total = 16_000 * 60;
    let bytes: Vec<u8> = (0..total).flat_map(|place| ramp(place).to_le_bytes()).collect();
    let mut source =
        RawPcm::new(Cursor::new(bytes), &settings, Arc::clone(&health)).expect("opens");
    std::thread::sleep(Duration::from_millis(300));
    let mut reads = Vec::new();
    loop {
        let mut block = Vec::new();
        let read = source.read(&mut block).expect("reads");
        reads.push((read, block));
        if read == Read::End {
            break;
        }
    }
    assert_eq!(reads[0].0, Read::Sound, "what waited is heard before what is missing");
    let (heard, gaps) = check_ramp(reads);
    assert!(!gaps.is_empty());
    assert_eq!(heard + gaps.iter().sum::<u64>(), total);
    assert_eq!(health.losses().0, gaps.iter().sum::<u64>());
}

/// Reads all that waits in a funnel of two channels.
fn drain(outlet: &mut Outlet, reads: &mut Vec<(Read, Vec<f32>)>) {
    loop {
        let mut sound = Vec::new();
        match outlet.drain(2, |part| sound.extend(part.iter().step_by(2))) {
            Drained::Sound => reads.push((Read::Sound, sound)),
            Drained::Break { lost } => reads.push((Read::Gap { lost: lost / 2 }, sound)),
            Drained::Nothing => return,
        }
    }
}

#[test]
fn a_late_listener_hears_what_waited_before_what_a_driver_lost() {
    let (mut inlet, mut outlet, overruns) = funnel(4_000);
    let mut random = Random(9);
    let (mut sent, mut reads) = (0_u64, Vec::new());
    let mut expected_breaks = 0;
    for round in 0..5_000 {
        // Periods of a driver, of two channels.
        let frames = 1 + random.below(300);
        let period: Vec<i16> = (sent..sent + frames).flat_map(|place| [ramp(place); 2]).collect();
        if round % 97 == 0 {
            overruns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            expected_breaks += 1;
        }
        inlet.push(&period, |s| f32::from(s) / 32_768.0);
        sent += frames;
        // A listener that comes now and then, and takes all there is.
        if random.below(8) == 0 {
            drain(&mut outlet, &mut reads);
        }
    }
    drain(&mut outlet, &mut reads);
    let (heard, gaps) = check_ramp(reads);
    let lost: u64 = gaps.iter().sum();
    assert!(lost > 0 && heard > 100_000, "{heard} heard, {lost} lost");
    // What was lost last is told by the sound that would come next.
    assert!(heard + lost <= sent && sent - heard - lost < 6_000, "{heard} + {lost} of {sent}");
    assert!(gaps.contains(&0), "an overrun of the driver is a break, of unknown length");
    assert!(gaps.len() > expected_breaks / 2, "{} breaks", gaps.len());
}

#[cfg(feature = "microphone")]
#[test]
fn a_microphone_that_is_not_there_is_retried_and_reported() {
    let health = health();
    let settings =
        config::Source { device: Some("no-such-device".into()), ..config::Source::default() };
    let mut source = source::open(&settings, Begin::default(), &health).expect("no error");
    let mut block = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(source.read(&mut block).expect("no error"), Read::Nothing);
    }
    assert!(block.is_empty());
    assert_eq!(health.source(), ecosight_shared::SourceState::Recovering);
}

#[cfg(not(feature = "microphone"))]
#[test]
fn a_program_without_the_microphone_refuses_it_and_says_what_to_do() {
    let settings = config::Source::default();
    let refused = source::open(&settings, Begin::default(), &health()).map(|_| ());
    let said = refused.expect_err("nothing to open").to_string();
    assert!(said.contains("source.kind") && said.contains("libasound2-dev"), "{said}");
    assert_eq!(source::Microphone::probe(&settings), Err(said));
}

fn copy(mut from: Cursor<Vec<u8>>, to: &Path) {
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).open(to).expect("made");
    std::io::copy(&mut from, &mut file).expect("written");
}
