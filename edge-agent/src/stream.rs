//! Which sound is heard, and from where on: a new stream, or a replay taken up again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ecosight_models::Classifier;

use crate::budget::Background;
use crate::clip::Extent;
use crate::clock::Clock;
use crate::config::Config;
use crate::ear::Ear;
use crate::health::Health;
use crate::hearing::{Canaries, Hearing, Timeline};
use crate::outbox::{Outbox, ReplayPosition};
use crate::recorder::complete_all;
use crate::reel::ReelSender;
use crate::resume::{CONTEXT, Progress, Resume};
use crate::source::{self, Begin};
use crate::trace::{self, Tracer};

/// The sound to be heard, and what is already written of it.
pub(crate) struct Stream {
    pub(crate) hearing: Hearing,
    /// Two runs share it exactly when they hear the same sound with the same model.
    pub(crate) name: String,
    pub(crate) resume: Resume,
    pub(crate) progress: Option<Progress>,
}

impl Stream {
    pub(crate) async fn open(
        config: &Config,
        classifier: Classifier,
        outbox: &Outbox,
        clock: &Clock,
        health: &Arc<Health>,
        tracer: Tracer,
        reel: Option<ReelSender>,
    ) -> Result<Self> {
        let is_replay = config.source.is_replay() && config.source.resume;
        let name = source::identity(&config.source, &classifier.bundle().tag.to_string())?;
        let position = outbox.replay_position().await?;
        let position = position.filter(|position| is_replay && position.stream == name);
        let (same, others) = outbox
            .open_events()
            .await?
            .into_iter()
            .partition(|open| position.is_some() && open.known.stream == name);
        // Their sound cannot be heard again.
        complete_all(outbox, others).await?;

        let position = position.unwrap_or_else(|| ReplayPosition {
            stream: name.clone(),
            sample: 0,
            item: 0,
            item_start: 0,
            ends: BTreeMap::new(),
        });
        let resume = Resume::new(&position, same);
        let begin = Begin {
            item: position.item,
            item_start: position.item_start,
            sample: resume.begin(&position),
        };
        if begin.sample > 0 {
            tracing::info!(from_s = begin.sample / 16_000, "replay goes on where it was stopped");
        }
        let source = source::open(&config.source, begin, health).context("source")?;
        let timeline = match config.source.start_time {
            Some(start) => Timeline::Recorded(start.as_microsecond()),
            None => Timeline::Live(clock.clone()),
        };
        let mut ear = Ear::new(classifier, config, Arc::clone(health))?;
        let known = config.storage.data_dir.join(trace::BACKGROUND_FILE);
        if let Ok(bytes) = std::fs::read(known) {
            // What another model heard says nothing of this one's scores.
            if let Some(background) = Background::read(&bytes, &ear.background().of) {
                ear.remember(background);
            }
        }
        if begin.sample > begin.item_start {
            ear.judge_from(begin.sample + CONTEXT);
        }
        // A replay is heard again after a crash; its canaries would be as well.
        let live = !config.source.is_replay() && !config.canary.every.is_zero();
        let samples =
            |d: Duration| (d.as_secs_f64() * f64::from(ecosight_models::SAMPLE_RATE_HZ)) as u64;
        let canaries = live.then(|| Canaries {
            first: samples(config.canary.first),
            every: samples(config.canary.every),
        });
        let hearing = Hearing {
            source,
            begin,
            ear,
            extent: Extent::of(&config.clip),
            timeline,
            health: Arc::clone(health),
            is_replay,
            tracer: Some(tracer),
            reel,
            canaries,
            orders: None,
        };
        let progress = is_replay.then(|| Progress::new(position));
        Ok(Self { hearing, name, resume, progress })
    }
}
