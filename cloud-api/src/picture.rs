//! Path: clips → **picture** → API
//!
//! A recording as a line and as an area.

use std::f32::consts::TAU;
use std::path::Path;

use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_models::audio::{AudioError, AudioReader, DecodeLimits};
use realfft::RealFftPlanner;

/// Samples of one column's spectrum: 32 ms.
const FRAME: usize = 512;
/// Rows of a spectrogram: the bins of a frame without the highest.
const ROWS: usize = FRAME / 2;
/// What is black, and what is brightest: a quiet forest's floor, and a close call. dBFS per bin.
const DARK_DBFS: f32 = -100.0;
const BRIGHT_DBFS: f32 = -30.0;
const COLOURS: usize = 256;

/// Why a recording was not drawn. All of them are faults of the server: what is stored was verified.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It cannot be decoded.
    #[error("cannot decode it: {0}")]
    Audio(#[from] AudioError),
    /// The spectrum failed.
    #[error("cannot compute its spectrum: {0}")]
    Spectrum(String),
    /// The picture could not be written.
    #[error("cannot write it as PNG: {0}")]
    Png(#[from] png::EncodingError),
}

/// A recording as a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Its length.
    pub duration_s: f64,
    /// Lowest and highest sample of each span.
    pub peaks: Vec<[f32; 2]>,
}

/// Lowest and highest samples of `count` spans of equal length, or fewer where there are fewer
/// samples.
///
/// # Errors
/// [`PictureError::Audio`].
pub fn peaks(path: &Path, count: usize) -> Result<Peaks, PictureError> {
    let sound = sound(path)?;
    let span = sound.len().div_ceil(count).max(1);
    let peak = |span: &[f32]| {
        span.iter().fold([0.0_f32; 2], |[low, high], sample| [low.min(*sample), high.max(*sample)])
    };
    let duration_s = sound.len() as f64 / f64::from(SAMPLE_RATE_HZ);
    Ok(Peaks { duration_s, peaks: sound.chunks(span).map(peak).collect() })
}

/// A PNG of at most `width` columns and 256 rows, 0 Hz below and 8 kHz above.
///
/// # Errors
/// [`PictureError`].
pub fn spectrogram(path: &Path, width: usize) -> Result<Vec<u8>, PictureError> {
    let sound = sound(path)?;
    let hop = (sound.len().saturating_sub(FRAME) / width.max(1) + 1).max(FRAME / 8);
    let columns = sound.len().saturating_sub(FRAME) / hop + 1;
    let window: Vec<f32> =
        (0..FRAME).map(|n| 0.5 - 0.5 * (TAU * n as f32 / FRAME as f32).cos()).collect();
    // A sine of full scale is 0 dBFS.
    let scale = 2.0 / window.iter().sum::<f32>();
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(FRAME);
    let (mut frame, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
    let mut pixels = vec![0_u8; columns * ROWS];
    for column in 0..columns {
        let from = column * hop;
        for (n, (into, weight)) in frame.iter_mut().zip(&window).enumerate() {
            *into = sound.get(from + n).copied().unwrap_or(0.0) * weight;
        }
        fft.process(&mut frame, &mut spectrum)
            .map_err(|error| PictureError::Spectrum(error.to_string()))?;
        for (bin, value) in spectrum.iter().take(ROWS).enumerate() {
            let dbfs = 20.0 * (value.norm() * scale).max(1e-9).log10();
            let share = (dbfs - DARK_DBFS) / (BRIGHT_DBFS - DARK_DBFS);
            let colour = (share.clamp(0.0, 1.0) * (COLOURS - 1) as f32) as u8;
            pixels[(ROWS - 1 - bin) * columns + column] = colour;
        }
    }
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, columns as u32, ROWS as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette());
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(png)
}

/// From black over violet and orange to pale yellow, evenly brighter.
fn palette() -> Vec<u8> {
    const STOPS: [[f32; 3]; 5] = [
        [0.0, 0.0, 4.0],
        [87.0, 16.0, 110.0],
        [188.0, 55.0, 84.0],
        [249.0, 142.0, 9.0],
        [252.0, 255.0, 164.0],
    ];
    let colour = |n: usize| {
        let place = n as f32 / (COLOURS - 1) as f32 * (STOPS.len() - 1) as f32;
        let below = (place as usize).min(STOPS.len() - 2);
        let share = place - below as f32;
        std::array::from_fn::<u8, 3, _>(|part| {
            (STOPS[below][part] * (1.0 - share) + STOPS[below + 1][part] * share).round() as u8
        })
    };
    (0..COLOURS).flat_map(colour).collect()
}

/// The whole recording at 16 kHz. A clip is some seconds long; the limit is that of its upload.
pub(crate) fn sound(path: &Path) -> Result<Vec<f32>, PictureError> {
    let limits = DecodeLimits { max_bytes: 64 << 20, max_seconds: 600.0 };
    let mut reader = AudioReader::open(path, &limits)?;
    let mut sound = Vec::new();
    while let Some(block) = reader.next_block()? {
        sound.extend_from_slice(block);
    }
    Ok(sound)
}

#[cfg(test)]
mod tests {
    use hound::{SampleFormat, WavSpec, WavWriter};

    use super::{ROWS, peaks, spectrogram};

    /// A second of a 1 kHz sine at full scale, then a second of silence.
    fn tone() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let spec = WavSpec {
            channels: 1,
            sample_rate: 16_000,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let mut writer = WavWriter::new(file.reopen().unwrap(), spec).unwrap();
        for n in 0..32_000 {
            let tone = (f64::from(n) * std::f64::consts::TAU / 16.0).sin();
            writer.write_sample(if n < 16_000 { (tone * 32_767.0) as i16 } else { 0 }).unwrap();
        }
        writer.finalize().unwrap();
        file
    }

    #[test]
    fn a_line_has_the_height_of_the_sound() {
        let file = tone();
        let peaks = peaks(file.path(), 20).unwrap();
        assert!((peaks.duration_s - 2.0).abs() < 1e-9);
        assert_eq!(peaks.peaks.len(), 20);
        assert!(peaks.peaks[..9].iter().all(|[low, high]| *low < -0.99 && *high > 0.99));
        assert!(peaks.peaks[11..].iter().all(|peak| *peak == [0.0, 0.0]));
    }

    #[test]
    fn a_tone_is_a_line_at_its_pitch_as_long_as_it_sounds() {
        let file = tone();
        let png = spectrogram(file.path(), 200).unwrap();
        let decoder = png::Decoder::new(std::io::Cursor::new(&png));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(info.height as usize, ROWS);
        let width = info.width as usize;
        let rgb = |row: usize, column: usize| -> u32 {
            let bytes = pixels.len() / (ROWS * width);
            let at = (row * width + column) * bytes;
            pixels[at..at + bytes].iter().map(|part| u32::from(*part)).sum()
        };
        // 1 kHz is bin 32 of 31.25 Hz.
        let line = ROWS - 1 - 32;
        for column in [10, width / 4, width / 2 - 20] {
            let brightest = (0..ROWS).max_by_key(|row| rgb(*row, column)).unwrap();
            assert!(brightest.abs_diff(line) <= 1, "row {brightest} in column {column}");
        }
        let silent = width - 10;
        assert!((0..ROWS).all(|row| rgb(row, silent) == rgb(0, silent)));
    }
}
