//! The sound card.
//!
//! The callback pushes into a [`funnel`], which counts what does not fit, nothing more. Whether the
//! microphone works is decided by the frames that arrive, never by the driver's reports: a
//! driver may fail without a word, or report an overrun from which it has already recovered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{BufferSize, Data, ErrorKind, SampleFormat, StreamConfig};
use ecosight_models::SAMPLE_RATE_HZ;
use ecosight_models::audio::Resampler;
use ecosight_shared::SourceState;

use super::funnel::{Drained, Inlet, Outlet, funnel};
use super::supervision::Supervision;
use super::{Read, Source, SourceError, usb};
use crate::config;
use crate::health::{Health, Loss};

/// Sound that waits while inference is busy.
const RING: Duration = Duration::from_secs(10);
/// Without a frame for this long the stream is opened anew.
const DEAF_AFTER: Duration = Duration::from_secs(3);
/// Streams of vanished devices that hang while they are closed, each with a thread: then only a new
/// process helps.
const HANGING_MAX: usize = 3;
/// One read waits this long for frames.
const NAP: Duration = Duration::from_millis(50);

/// A microphone, opened for ever again.
pub struct Microphone {
    device: Option<String>,
    rate: Option<u32>,
    channels: Option<u32>,
    health: Arc<Health>,
    open: Option<Open>,
    supervision: Supervision,
    closing: Vec<JoinHandle<()>>,
    retry_at: Instant,
    /// When sound was last heard, to count what a pause cost.
    deaf_since: Option<Instant>,
}

struct Open {
    stream: cpal::Stream,
    outlet: Outlet,
    /// Samples at 16 kHz that are missing behind the sound that was read last.
    gap: Option<u64>,
    resampler: Resampler,
    rate: u32,
    channels: u32,
    last_frame: Instant,
}

impl Microphone {
    /// The configured microphone; opened at the first read.
    #[must_use]
    pub fn new(config: &config::Source, health: Arc<Health>) -> Self {
        Self {
            device: config.device.clone(),
            rate: config.rate,
            channels: config.channels,
            health,
            open: None,
            supervision: Supervision::default(),
            closing: Vec::new(),
            retry_at: Instant::now(),
            deaf_since: None,
        }
    }

    /// Opens the device once and closes it again: for a check.
    ///
    /// # Errors
    /// What is wrong and what to do about it.
    pub fn probe(config: &config::Source) -> Result<String, String> {
        let health = Arc::new(Health::default());
        let open = open(config.device.as_deref(), config.rate, config.channels, health)?;
        Ok(format!("{} Hz, {} channels", open.rate, open.channels))
    }

    fn reopen(&mut self) -> Read {
        let now = Instant::now();
        if now < self.retry_at {
            std::thread::sleep((self.retry_at - now).min(Duration::from_millis(200)));
            return Read::Nothing;
        }
        let health = Arc::clone(&self.health);
        match open(self.device.as_deref(), self.rate, self.channels, health) {
            Ok(open) => {
                tracing::info!(rate_hz = open.rate, channels = open.channels, "microphone open");
                self.open = Some(open);
                let pause = self.deaf_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                let lost = (pause.as_secs_f64() * f64::from(SAMPLE_RATE_HZ)) as u64;
                self.health.lost(lost);
                Read::Gap { lost }
            }
            Err(problem) => {
                let (state, pause) = self.supervision.failed();
                self.retry_at = now + pause;
                self.deaf_since.get_or_insert(now);
                self.health.set_source(state);
                let (failures, retry_in_s) = (self.supervision.failures(), pause.as_secs());
                if state == SourceState::Recovering {
                    tracing::warn!(problem, failures, retry_in_s, "cannot open the microphone");
                } else {
                    tracing::error!(problem, failures, retry_in_s, "cannot open the microphone");
                }
                Read::Nothing
            }
        }
    }

    /// Gives the stream up. Dropping a stream of a device that was unplugged can hang in the
    /// driver, so that a thread of its own does it.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.deaf_since.get_or_insert(open.last_frame);
            let dropper = std::thread::Builder::new().name("microphone-close".into());
            self.closing.extend(dropper.spawn(move || drop(open.stream)));
        }
    }
}

impl Source for Microphone {
    fn read(&mut self, out: &mut Vec<f32>) -> Result<Read, SourceError> {
        if self.open.is_none() {
            self.closing.retain(|closing| !closing.is_finished());
            if self.closing.len() > HANGING_MAX {
                return Err(SourceError::Hanging);
            }
        }
        let Some(open) = &mut self.open else { return Ok(self.reopen()) };
        if let Some(lost) = open.gap.take() {
            return Ok(Read::Gap { lost });
        }
        let resampler = &mut open.resampler;
        let drained = open.outlet.drain(open.channels as usize, |part| resampler.push(part, out));
        match drained {
            Drained::Sound => {}
            Drained::Nothing => {
                if open.last_frame.elapsed() > DEAF_AFTER {
                    tracing::warn!("the microphone is silent to the last frame, opening it anew");
                    self.health.set_source(SourceState::Recovering);
                    self.close();
                } else {
                    std::thread::sleep(NAP);
                }
                return Ok(Read::Nothing);
            }
            Drained::Break { lost } => {
                let frames = lost / u64::from(open.channels);
                let lost = frames * u64::from(SAMPLE_RATE_HZ) / u64::from(open.rate);
                self.health.lost(lost);
                if lost == 0 {
                    // How long an overrun of the driver was nobody knows.
                    self.health.gap();
                }
                // What the resampler holds back is of the time before.
                resampler.finish(out);
                if out.is_empty() {
                    return Ok(Read::Gap { lost });
                }
                open.gap = Some(lost);
            }
        }
        open.last_frame = Instant::now();
        self.supervision.heard();
        self.health.set_source(SourceState::Healthy);
        Ok(if out.is_empty() { Read::Nothing } else { Read::Sound })
    }
}

impl Drop for Microphone {
    fn drop(&mut self) {
        self.close();
    }
}

fn open(
    device: Option<&str>,
    rate: Option<u32>,
    channels: Option<u32>,
    health: Arc<Health>,
) -> Result<Open, String> {
    let host = cpal::default_host();
    let device = match device {
        None => host.default_input_device().ok_or(
            "no microphone found; plug one in, check that this user is in the group `audio`, and \
             `arecord -l` lists it",
        )?,
        Some(name) => {
            let card = name.strip_prefix(usb::PREFIX);
            let card = card.map(|serial| usb::card(serial, Path::new(usb::SOUND_CLASS)));
            let name = card.transpose()?.unwrap_or_else(|| name.to_owned());
            let full =
                if name.starts_with("alsa:") { name.clone() } else { format!("alsa:{name}") };
            let id = full.parse().map_err(|e| format!("source.device \"{name}\": {e}"))?;
            host.device_by_id(&id).ok_or_else(|| {
                format!("no microphone \"{name}\"; `arecord -L` lists the names there are")
            })?
        }
    };
    let preferred = device.default_input_config().map_err(|e| format!("microphone: {e}"))?;
    let rate = rate.unwrap_or_else(|| preferred.sample_rate());
    let channels = channels.unwrap_or_else(|| u32::from(preferred.channels()));
    let format = preferred.sample_format();
    let config = StreamConfig {
        channels: u16::try_from(channels).unwrap_or(u16::MAX),
        sample_rate: rate,
        buffer_size: BufferSize::Default,
    };
    let resampler = Resampler::new(rate, channels as usize).map_err(|e| e.to_string())?;
    let capacity = RING.as_secs() as usize * rate as usize * channels as usize;
    let (inlet, outlet, overruns) = funnel(capacity);
    let on_error = move |error: cpal::Error| {
        tracing::debug!(%error, "microphone driver");
        if error.kind() == ErrorKind::Xrun {
            overruns.fetch_add(1, Ordering::Relaxed);
            health.count(Loss::Overrun, 1);
        }
    };
    let callback = callback(format, inlet)?;
    let stream = device
        .build_input_stream_raw(config, format, callback, on_error, Some(DEAF_AFTER))
        .map_err(|e| format!("microphone at {rate} Hz, {channels} channels: {e}"))?;
    stream.play().map_err(|e| format!("microphone: {e}"))?;
    let last_frame = Instant::now();
    Ok(Open { stream, outlet, gap: None, resampler, rate, channels, last_frame })
}

type Callback = Box<dyn FnMut(&Data, &cpal::InputCallbackInfo) + Send>;

fn callback(format: SampleFormat, mut inlet: Inlet) -> Result<Callback, String> {
    Ok(match format {
        SampleFormat::F32 => Box::new(move |data, _| {
            inlet.push(data.as_slice::<f32>().unwrap_or_default(), |s| s);
        }),
        SampleFormat::I16 => Box::new(move |data, _| {
            inlet.push(data.as_slice::<i16>().unwrap_or_default(), |s| f32::from(s) / 32_768.0);
        }),
        SampleFormat::I32 => Box::new(move |data, _| {
            inlet.push(data.as_slice::<i32>().unwrap_or_default(), |s| s as f32 / 2_147_483_648.0);
        }),
        SampleFormat::U8 => Box::new(move |data, _| {
            inlet.push(data.as_slice::<u8>().unwrap_or_default(), |s| {
                (f32::from(s) - 128.0) / 128.0
            });
        }),
        other => return Err(format!("microphone format {other} is not supported")),
    })
}
