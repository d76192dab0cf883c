//! Bed: the layers that make a habitat's ambience, and what they write to.

/// Samples of one step of the scene: 32 ms. Everything inside works in these steps, so that what
/// is heard does not hang on the size of the blocks asked for.
pub(super) const STEP: usize = 512;
/// Seconds of one step.
pub(super) const STEP_S: f32 = STEP as f32 / crate::SAMPLE_RATE_HZ as f32;

/// One step of sound pressure at the microphone, Pa: what comes straight and what the forest is to
/// reverberate.
pub(super) struct Bus {
    pub(super) dry: [f32; STEP],
    pub(super) wet: [f32; STEP],
}

impl Bus {
    pub(super) fn new() -> Self {
        Self {
            dry: [0.0; STEP],
            wet: [0.0; STEP],
        }
    }

    pub(super) fn clear(&mut self) {
        self.dry.fill(0.0);
        self.wet.fill(0.0);
    }
}

/// A source of ambience.
pub(super) trait Layer: Send {
    /// Adds the step that begins at sample `start` of the scene.
    fn add(&mut self, start: u64, bus: &mut Bus);
}

/// A gain that moves without steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glide {
    value: f32,
}

impl Glide {
    pub(super) fn new(value: f32) -> Self {
        Self { value }
    }

    /// Values from the last target to this one over a step.
    pub(super) fn toward(&mut self, target: f32) -> impl Iterator<Item = f32> + use<> {
        let from = self.value;
        self.value = target;
        let slope = (target - from) / STEP as f32;
        (0..STEP).map(move |index| from + slope * index as f32)
    }
}
