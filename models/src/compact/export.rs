//! Path: recordings → material → **export** → the training script
//!
//! The sounds that the compact network learns from, as it will see them: the same forms, folds and
//! front end as the head's, written as flat little-endian files that numpy maps.
//!
//! - `frames.f16`: `[frames, 48]`, dBFS, the items' spectrograms one after the other.
//! - `windows.f32`: `[windows, 8 + 45 + 45 + 48]`: item, index of the item's frame with which the patch
//!   would end, frames of the item that hold sound, class, example (0 or 1), level dBFS, noise
//!   floor dBFS, start in samples; the streams `transient` and `transient.next`; the bands' medians, dBFS.
//! - `index.json`: classes, clips, and items with their first frame.

use std::path::Path;

use half::f16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{BANDS, FRAME_STEPS, LOOK_AHEAD_FRAMES, Spectrogram, frames_of};
use crate::WINDOW_SAMPLES;
use crate::logmel::FRAME_HOP;
use crate::train::dataset::Clip;
use crate::train::labels::LabelMap;
use crate::train::made::MadeScene;
use crate::train::material::{Form, Item, Library, MaterialError};
use crate::transient;
use crate::window::{Extras, Window, Windower};

/// Numbers of a window before its `transient` stream.
const MARKS: usize = 8;
/// Numbers of a window.
pub(super) const WIDTH: usize = MARKS + 2 * transient::LEN + BANDS;
/// What an item was made of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ItemLine {
    /// Index in `clips`; absent for what was synthesised.
    pub clip: Option<usize>,
    /// A [`Form`], by its name in [`FORMS`].
    pub form: String,
    pub copy: u32,
    pub fold: usize,
    pub class: usize,
    first_frame: usize,
    frames: usize,
}

#[derive(Serialize)]
struct ClipLine<'a> {
    name: &'a str,
    label: &'a str,
    source: &'a str,
    group: &'a str,
}

#[derive(Serialize)]
struct Index<'a> {
    bands: usize,
    patch_frames: usize,
    marks: usize,
    transient: usize,
    classes: Vec<&'a str>,
    alerting: usize,
    folds: usize,
    clips: Vec<ClipLine<'a>>,
    items: Vec<ItemLine>,
}

/// One sound as the network sees it.
struct Seen {
    frames: Vec<f16>,
    windows: Vec<f32>,
}

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A recording could not be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The files could not be written.
    #[error("cannot write the training material: {0}")]
    Write(#[from] std::io::Error),
    /// The index could not be written.
    #[error("cannot write the index: {0}")]
    Index(#[from] serde_json::Error),
}

/// Writes all items of the library, and `scenes` synthetic ones, to the folder `out`.
///
/// # Errors
/// [`ExportError`]; the folder then holds nothing that looks whole, as the index comes last.
pub fn export(
    library: &Library,
    labels: &LabelMap,
    items: &[Item],
    scenes: u32,
    seed: u64,
    out: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(), ExportError> {
    let done = std::sync::atomic::AtomicUsize::new(0);
    let total = items.len() + scenes as usize;
    let tell = || progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, total);
    let recorded: Vec<Option<Seen>> = items
        .par_iter()
        .with_max_len(4)
        .map(|item| {
            let seen = library.render(item, labels, seed)?.map(|rendered| {
                let mark = |window: &Window| {
                    let example = rendered.window(window.start_sample)?;
                    Some((item.class, example))
                };
                see(&rendered.samples, rendered.ends, mark)
            });
            tell();
            Ok(seen)
        })
        .collect::<Result<_, MaterialError>>()?;
    let staged: Vec<Seen> = (0..scenes)
        .into_par_iter()
        .with_max_len(1)
        .map(|number| {
            let seen = scene(number, labels, seed);
            tell();
            seen
        })
        .collect();

    let mut frames: Vec<f16> = Vec::new();
    let mut windows: Vec<f32> = Vec::new();
    let mut lines = Vec::new();
    let mut add = |seen: Seen, clip, form: &str, copy, fold, class| {
        if seen.windows.is_empty() {
            return;
        }
        let number = lines.len() as f32;
        for window in seen.windows.chunks_exact(WIDTH) {
            windows.push(number);
            windows.extend_from_slice(&window[1..]);
        }
        lines.push(ItemLine {
            clip,
            form: form.to_owned(),
            copy,
            fold,
            class,
            first_frame: frames.len() / BANDS,
            frames: seen.frames.len() / BANDS,
        });
        frames.extend(seen.frames);
    };
    for (item, seen) in items.iter().zip(recorded) {
        let Some(seen) = seen else { continue };
        add(seen, item.clip, form_name(item.form), item.copy, item.fold, item.class);
    }
    for (number, seen) in staged.into_iter().enumerate() {
        let fold = number % library.folds().max(1);
        add(seen, None, form_name(Form::Scene), number as u32, fold, labels.rest());
    }

    let frame_bytes: Vec<u8> =
        frames.iter().flat_map(|level| level.to_bits().to_le_bytes()).collect();
    crate::durable::write_file(&out.join("frames.f16"), &frame_bytes)?;
    let window_bytes: Vec<u8> = windows.iter().flat_map(|number| number.to_le_bytes()).collect();
    crate::durable::write_file(&out.join("windows.f32"), &window_bytes)?;
    let index = Index {
        bands: BANDS,
        patch_frames: super::PATCH_FRAMES,
        marks: MARKS,
        transient: 2 * transient::LEN,
        classes: labels.classes.iter().map(|class| class.name.as_str()).collect(),
        alerting: labels.alerting(),
        folds: library.folds(),
        clips: library.clips().iter().map(clip_line).collect(),
        items: lines,
    };
    Ok(crate::durable::write_file(&out.join("index.json"), &serde_json::to_vec(&index)?)?)
}

fn clip_line(clip: &Clip) -> ClipLine<'_> {
    ClipLine { name: &clip.name, label: &clip.label, source: &clip.source, group: &clip.group }
}

/// The forms by their names in the index.
pub(super) const FORMS: [(Form, &str); 8] = [
    (Form::Plain, "plain"),
    (Form::BandLimited, "band_limited"),
    (Form::Quiet, "quiet"),
    (Form::InContext, "in_context"),
    (Form::Mixed, "mixed"),
    (Form::Silence, "silence"),
    (Form::Scene, "scene"),
    (Form::Staged, "staged"),
];

fn form_name(form: Form) -> &'static str {
    FORMS.iter().find(|(known, _)| *known == form).map_or("", |(_, name)| name)
}

/// `mark`: class of a window and whether it is an example of it; `None` where it is not kept.
fn see(samples: &[f32], ends: bool, mark: impl Fn(&Window) -> Option<(usize, bool)>) -> Seen {
    let frames: Vec<f16> =
        frames_of(samples).as_flattened().iter().map(|l| f16::from_f32(*l)).collect();
    let mut windower = Windower::with(Extras { ahead: true, speech: false });
    let mut windows = Vec::new();
    let mut taken: Vec<Window> = Vec::new();
    for block in samples.chunks(crate::HOP_SAMPLES) {
        windower.push(block);
        taken.extend(std::iter::from_fn(|| windower.next_window()));
    }
    if ends {
        windower.finish();
        taken.extend(std::iter::from_fn(|| windower.next_window()));
    }
    for window in &taken {
        let (Some((class, example)), Some(patch), Some(following)) =
            (mark(window), window.compact(), window.following())
        else {
            continue;
        };
        let frame = window.start_sample as usize / (FRAME_HOP * FRAME_STEPS);
        let end = frame + WINDOW_SAMPLES / (FRAME_HOP * FRAME_STEPS) + LOOK_AHEAD_FRAMES;
        let heard = Spectrogram::frames_in(window.end_sample());
        windows.extend([
            0.0,
            end as f32,
            heard as f32,
            class as f32,
            f32::from(u8::from(example)),
            window.level_dbfs,
            window.noise_floor_dbfs,
            window.start_sample as f32,
        ]);
        windows.extend_from_slice(window.transient());
        windows.extend_from_slice(following);
        windows.extend_from_slice(&patch.median_db);
    }
    Seen { frames, windows }
}

/// A minute of synthetic forest with shots. Windows that hold one are examples of it, those far
/// from all are of the rest, all others of nothing.
fn scene(number: u32, labels: &LabelMap, seed: u64) -> Seen {
    let scene = MadeScene::new(number, seed);
    let (shots, others) = (scene.marks(true), scene.marks(false));
    see(&scene.samples, false, |window| {
        let start = window.start_sample;
        Some(match shots.window(start) {
            Some(_) => (labels.alerting(), true),
            None => (labels.rest(), others.window(start).is_some()),
        })
    })
}
