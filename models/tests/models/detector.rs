//! Scores to events.

use ecosight_models::detector::{ClassRule, DetectorConfig};
use ecosight_models::{
    Detector, DetectorOutput, Event, HOP_SAMPLES, Scores, Window, Windower, transient, window,
};
use proptest::prelude::*;

const HOP: u64 = HOP_SAMPLES as u64;

/// Window number `i` of a stream, with this loudest moment.
fn window(i: usize, peak_sample: u64) -> Window {
    let start = i as u64 * HOP;
    let log_mel = Box::new([0.0; window::PATCH_LEN]);
    let level = -20.0 - i as f32;
    Window::new(start, start + 15_600, peak_sample, level, -60.0, log_mel, [0.0; transient::LEN])
}

fn rule(class: usize, threshold: f32, confirm_windows: usize, refractory_s: f32) -> ClassRule {
    ClassRule { class, threshold, confirm_windows, refractory_s, alert: class == 0 }
}

fn detector(rules: &[ClassRule]) -> Detector {
    Detector::new(&DetectorConfig { rules: rules.to_vec() })
}

fn scores(classes: &[f32]) -> Scores {
    Scores { classes: classes.to_vec(), audioset: None, speech: None }
}

/// All outputs of one class's scores, with the window after which each came (the number of
/// windows for those of the end).
fn run(rule: &ClassRule, stream: &[f32]) -> Vec<(usize, DetectorOutput)> {
    let mut detector = detector(std::slice::from_ref(rule));
    let mut out = Vec::new();
    for (i, score) in stream.iter().enumerate() {
        let peak = i as u64 * HOP + 5_000;
        out.extend(detector.push(&window(i, peak), &scores(&[*score])).into_iter().map(|o| (i, o)));
    }
    out.extend(detector.finish().into_iter().map(|o| (stream.len(), o)));
    out
}

fn confirmed(out: &[(usize, DetectorOutput)]) -> Vec<(usize, Event)> {
    let event = |(i, o): &(usize, DetectorOutput)| match o {
        DetectorOutput::Confirmed(event) => Some((*i, event.clone())),
        DetectorOutput::Closed(_) => None,
    };
    out.iter().filter_map(event).collect()
}

fn closed(out: &[(usize, DetectorOutput)]) -> Vec<(usize, Event)> {
    let event = |(i, o): &(usize, DetectorOutput)| match o {
        DetectorOutput::Closed(event) => Some((*i, event.clone())),
        DetectorOutput::Confirmed(_) => None,
    };
    out.iter().filter_map(event).collect()
}

#[test]
fn one_loud_window_confirms_when_the_mean_of_two_reaches_the_threshold() {
    let out = run(&rule(0, 0.5, 2, 2.0), &[0.1, 0.1, 0.95, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1]);
    let [(at, event)] = &confirmed(&out)[..] else { panic!("{out:?}") };
    assert_eq!(*at, 2);
    assert_eq!((event.number, event.class, event.alert, event.windows), (1, 0, true, 1));
    assert!((event.score - 0.525).abs() < 1e-6);
    // The window before is not over by itself: its loudest moment is not the onset.
    assert_eq!(event.onset_sample, 2 * HOP + 5_000);
    assert_eq!(event.decided_sample, 2 * HOP + 15_600);
    assert!((event.level_dbfs + 22.0).abs() < 1e-6);
    let [(at, event)] = &closed(&out)[..] else { panic!("{out:?}") };
    // 0.95 and 0.3 are over too; 2 s later, five windows, it is closed.
    assert_eq!(*at, 8);
    assert_eq!((event.windows, event.end_sample), (2, 3 * HOP + 15_600));
    assert!((event.score - 0.625).abs() < 1e-6);
    assert_eq!(event.scores, [0.95]);
}

#[test]
fn the_onset_is_that_of_the_earlier_window_where_both_hear_the_shot() {
    let mut detector = detector(&[rule(0, 0.5, 2, 2.0)]);
    detector.push(&window(0, 9_000), &scores(&[0.8]));
    let out = detector.push(&window(1, 12_000), &scores(&[0.9]));
    let [DetectorOutput::Confirmed(event)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(event.onset_sample, 9_000);
}

#[test]
fn classes_have_their_own_events_numbered_in_the_order_of_confirmation() {
    let mut detector = detector(&[rule(0, 0.5, 2, 1.0), rule(2, 0.5, 1, 1.0)]);
    assert!(detector.push(&window(0, 100), &scores(&[0.0, 1.0, 0.2])).is_empty());
    let first = detector.push(&window(1, 8_000), &scores(&[0.9, 1.0, 0.7]));
    let second = detector.push(&window(2, 16_000), &scores(&[0.9, 1.0, 0.7]));
    let numbers: Vec<(u64, usize, bool)> = first
        .iter()
        .chain(&second)
        .map(|out| match out {
            DetectorOutput::Confirmed(e) => (e.number, e.class, e.alert),
            DetectorOutput::Closed(e) => panic!("{e:?}"),
        })
        .collect();
    assert_eq!(numbers, [(1, 2, false), (2, 0, true)]);
    assert_eq!(detector.finish().len(), 2);
    assert!(detector.finish().is_empty());
}

#[test]
fn no_window_from_before_a_gap_helps_to_confirm() {
    for announced in [true, false] {
        let mut detector = detector(&[rule(0, 0.5, 2, 2.0)]);
        detector.push(&window(0, 100), &scores(&[1.0]));
        if announced {
            detector.finish();
        }
        assert!(detector.push(&window(9, 70_000), &scores(&[1.0])).is_empty());
        assert_eq!(detector.push(&window(10, 78_000), &scores(&[1.0])).len(), 1);
        // A gap ends the event.
        let out = detector.push(&window(30, 240_000), &scores(&[1.0]));
        assert!(matches!(&out[..], [DetectorOutput::Closed(_)]), "{out:?}");
    }
}

#[test]
fn what_is_no_number_confirms_nothing() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(run(&rule(0, 0.5, 2, 1.0), &[bad, bad, 1.0, bad, 1.0, bad]).is_empty());
    }
    // Nor does a class that the scores do not have, nor a threshold that is no number.
    assert!(run(&rule(7, 0.0, 1, 1.0), &[1.0, 1.0]).is_empty());
    assert!(run(&rule(0, f32::NAN, 1, 1.0), &[1.0, 1.0]).is_empty());
    // Odd rules do no harm.
    assert_eq!(confirmed(&run(&rule(0, 0.5, 0, -1.0), &[0.0, 1.0, 0.0, 1.0])).len(), 2);
    assert_eq!(confirmed(&run(&rule(0, 0.5, 0, f32::NAN), &[0.0, 1.0, 0.0, 1.0])).len(), 2);
    assert_eq!(confirmed(&run(&rule(0, 0.5, 0, f32::INFINITY), &[0.0, 1.0, 0.0, 1.0])).len(), 1);
}

/// Whatever its place in the windows, a shot that every window which holds 0.1 s of it hears is
/// decided within a second.
#[test]
fn a_shot_is_decided_within_a_second_of_its_onset() {
    for onset in (80_000..96_000).step_by(371) {
        let mut sound = vec![0.0_f32; 160_000];
        for (n, sample) in sound[onset..onset + 4_000].iter_mut().enumerate() {
            *sample = 0.5 * (n as f32 * 0.15).sin() * (-(n as f32) / 1_000.0).exp();
        }
        let mut windower = Windower::new();
        // So low that one window which hears it is enough.
        let mut detector = detector(&[rule(0, 0.4, 2, 2.0)]);
        windower.push(&sound);
        let mut events = Vec::new();
        while let Some(window) = windower.next_window() {
            let heard = window.start_sample as usize <= onset
                && onset + 1_600 <= window.end_sample() as usize;
            let out = detector.push(&window, &scores(&[if heard { 0.9 } else { 0.05 }]));
            events.extend(out.into_iter().filter_map(|out| match out {
                DetectorOutput::Confirmed(event) => Some(event),
                DetectorOutput::Closed(_) => None,
            }));
        }
        let [event] = &events[..] else { panic!("{onset}: {} events", events.len()) };
        assert!(event.onset_sample.abs_diff(onset as u64) < 400, "{onset}: {event:?}");
        let latency_s = (event.decided_sample - onset as u64) as f32 / 16_000.0;
        assert!(latency_s <= 1.08, "{onset}: decided after {latency_s} s");
    }
}

/// The rules, written as a sentence about the whole list of scores: which windows are over, and
/// which of them belong together. Gives (first over, last over) of each event.
fn model(stream: &[f32], threshold: f32, confirm: usize, refractory_s: f32) -> Vec<(usize, usize)> {
    let over: Vec<usize> = (0..stream.len())
        .filter(|&i| {
            i + 1 >= confirm && {
                let group = &stream[i + 1 - confirm..=i];
                group.iter().all(|s| s.is_finite())
                    && group.iter().sum::<f32>() / confirm as f32 >= threshold
            }
        })
        .collect();
    let quiet_windows = ((f64::from(refractory_s) / 0.48).ceil() as usize).max(1);
    let mut events: Vec<(usize, usize)> = Vec::new();
    for i in over {
        match events.last_mut() {
            Some((_, last)) if i - *last <= quiet_windows => *last = i,
            _ => events.push((i, i)),
        }
    }
    events
}

proptest! {
    #[test]
    fn events_are_those_of_the_model(
        stream in prop::collection::vec(
            prop_oneof![4 => 0.0..0.5_f32, 3 => 0.5..1.0_f32, 1 => Just(f32::NAN)],
            0..60,
        ),
        confirm in 1..4_usize,
        threshold in 0.2..0.9_f32,
        refractory_s in prop::sample::select(vec![0.0, 0.3, 0.48, 1.0, 2.0, 5.0_f32]),
    ) {
        let rule = rule(0, threshold, confirm, refractory_s);
        let out = run(&rule, &stream);
        let (confirmed, closed) = (confirmed(&out), closed(&out));
        let expected = model(&stream, threshold, confirm, refractory_s);
        let got: Vec<(usize, usize)> = confirmed
            .iter()
            .zip(&closed)
            .map(|((at, _), (_, end))| (*at, ((end.end_sample - 15_600) / HOP) as usize))
            .collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(confirmed.len(), closed.len());
        for (i, ((at, begun), (closed_at, ended))) in confirmed.iter().zip(&closed).enumerate() {
            prop_assert_eq!(begun.number, i as u64 + 1);
            prop_assert_eq!(begun.number, ended.number);
            prop_assert_eq!(begun.onset_sample, ended.onset_sample);
            prop_assert_eq!(begun.decided_sample, *at as u64 * HOP + 15_600);
            prop_assert!(begun.onset_sample <= begun.decided_sample);
            prop_assert!(begun.score >= threshold && ended.score >= begun.score);
            prop_assert!(closed_at >= at);
        }
        prop_assert_eq!(run(&rule, &stream), out, "the same stream gives the same events");
    }
}
