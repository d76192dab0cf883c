//! Whether the transient numbers hear what they were made for: real shots, hundreds of metres
//! away in rainforest, against the forest of the same recorders.

use std::collections::BTreeMap;

use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_models::{Windower, transient};

use crate::golden;

/// Highest and lowest value of each number in a clip.
fn extremes(path: &std::path::Path) -> [(f32, f32); transient::LEN] {
    let mut reader = AudioReader::open(path, &DecodeLimits::default()).unwrap();
    let mut windower = Windower::new();
    let mut extremes = [(f32::NEG_INFINITY, f32::INFINITY); transient::LEN];
    let mut ended = false;
    while !ended {
        match reader.next_block().unwrap() {
            Some(block) => windower.push(block),
            None => {
                windower.finish();
                ended = true;
            }
        }
        while let Some(window) = windower.next_window() {
            for ((high, low), value) in extremes.iter_mut().zip(window.transient()) {
                *high = high.max(*value);
                *low = low.min(*value);
            }
        }
    }
    extremes
}

/// Area under the ROC curve: how often a positive is above a negative, ties half.
fn auc(positives: &[f32], negatives: &[f32]) -> f64 {
    let mut all: Vec<(f32, bool)> = positives.iter().map(|v| (*v, true)).collect();
    all.extend(negatives.iter().map(|v| (*v, false)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut wins, mut below, mut at) = (0.0, 0.0, 0);
    while at < all.len() {
        let tied = all[at..].iter().take_while(|(v, _)| *v == all[at].0).count();
        let (mut p, mut n) = (0.0, 0.0);
        all[at..at + tied].iter().for_each(|(_, shot)| if *shot { p += 1.0 } else { n += 1.0 });
        wins += p * (below + n / 2.0);
        below += n;
        at += tied;
    }
    wins / (positives.len() as f64 * negatives.len() as f64)
}

#[test]
#[ignore = "hears 1.5 h of real recordings; run it after a change of the transient numbers"]
fn one_number_tells_most_distant_shots_from_their_forest() {
    let Some(manifest) = golden::shared("audio/manifest.csv") else { return };
    let mut shots = Vec::new();
    let mut forests: BTreeMap<String, Vec<[(f32, f32); transient::LEN]>> = BTreeMap::new();
    for line in std::fs::read_to_string(&manifest).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let (path, label, source) = (fields[0], fields[1], fields[3]);
        let path = manifest.with_file_name(path);
        match (label, source) {
            ("gun_shot", "elp_kj0utlaw") => shots.push(extremes(&path)),
            ("forest_soundscape", "elp_kj0utlaw" | "elp_rosamelia") => {
                forests.entry(source.to_owned()).or_default().push(extremes(&path));
            }
            _ => {}
        }
    }
    assert!(shots.len() > 300, "{} shots", shots.len());
    for (source, forest) in &forests {
        let mut ranked: Vec<(f64, &str, &str)> = Vec::new();
        for (i, name) in transient::names().iter().enumerate() {
            let column = |clips: &[[(f32, f32); transient::LEN]], lowest: bool| -> Vec<f32> {
                clips.iter().map(|c| if lowest { -c[i].1 } else { c[i].0 }).collect()
            };
            for (lowest, which) in [(false, "highest"), (true, "lowest")] {
                ranked.push((auc(&column(&shots, lowest), &column(forest, lowest)), which, name));
            }
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        eprintln!("{} shots, {} clips of {source}:", shots.len(), forest.len());
        for (auc, which, name) in &ranked[..8] {
            eprintln!("  {auc:.3} {which} {name}");
        }
        assert!(ranked[0].0 > 0.85, "{source}: best AUC {:.3}", ranked[0].0);
    }
}
