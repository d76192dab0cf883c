//! Synthesised forest with gunshots.

use ecosight_models::scene::{Scene, SceneConfig};

use super::{Begin, Read, Source, SourceError, block};
use crate::config;

/// One scene, or with `loop` the scenes of successive seeds.
pub struct Scenery {
    config: SceneConfig,
    repeat: bool,
    block: usize,
    /// Number of the scene that runs or comes next, from 0.
    item: u64,
    scene: Option<Box<Scene>>,
    /// Samples at the front of the next scene that are already heard.
    skip: u64,
}

impl Scenery {
    /// The configured scene at `begin`.
    ///
    /// # Errors
    /// The settings make no scene.
    pub fn open(config: &config::Source, begin: Begin) -> Result<Self, SourceError> {
        let default = SceneConfig::default();
        let scene = SceneConfig {
            seed: config.seed,
            duration_s: config.duration.map(|duration| duration.as_secs_f64()),
            shots_per_hour: config.shots_per_hour.map_or(default.shots_per_hour, f64::from),
            first_shot_s: config
                .first_shot
                .map_or(default.first_shot_s, |at| Some(at.as_secs_f64())),
            ..default
        };
        scene.validate().map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            SourceError::Scene(faults.join("; "))
        })?;
        Ok(Self {
            config: scene,
            repeat: config.repeat,
            block: block(config.speed),
            item: begin.item,
            scene: None,
            skip: begin.sample.saturating_sub(begin.item_start),
        })
    }
}

impl Source for Scenery {
    fn read(&mut self, out: &mut Vec<f32>) -> Result<Read, SourceError> {
        let Some(scene) = &mut self.scene else {
            if self.item > 0 && !self.repeat {
                return Ok(Read::End);
            }
            // Another scene each time, or every round would sound the same.
            let seed = self.config.seed.wrapping_add(self.item);
            let config = SceneConfig { seed, ..self.config.clone() };
            self.scene = Some(Box::new(Scene::new(config)));
            return Ok(Read::Item { index: self.item });
        };
        let len = out.len();
        out.resize(len + self.block, 0.0);
        let rendered = scene.render(&mut out[len..]);
        out.truncate(len + rendered);
        if rendered == 0 {
            self.scene = None;
            self.item += 1;
            self.skip = 0;
            return Ok(Read::Nothing);
        }
        let skip = self.skip.min(rendered as u64);
        self.skip -= skip;
        out.drain(len..len + skip as usize);
        Ok(if out.len() > len { Read::Sound } else { Read::Nothing })
    }
}
