//! How far a training is, on its way from the trainer's process to those who watch: one line of JSON
//! on stderr, one column of the job, one event of the live stream.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a training does at the moment.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Chooses samples.
    #[default]
    Gather,
    /// Computes what the head takes of each sound; kept for the next time.
    Features,
    /// Trains the networks that judge it by cross-validation.
    Folds,
    /// Trains the head on everything.
    Head,
    /// Plays the test set to candidate and incumbent.
    Gate,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Gather, Self::Features, Self::Folds, Self::Head, Self::Gate];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gather => "gather",
            Self::Features => "features",
            Self::Folds => "folds",
            Self::Head => "head",
            Self::Gate => "gate",
        }
    }

    /// What follows it; the last follows itself.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Gather => Self::Features,
            Self::Features => Self::Folds,
            Self::Folds => Self::Head,
            Self::Head | Self::Gate => Self::Gate,
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Of this stage, how much is done…
    pub done: usize,
    /// … of so much.
    pub all: usize,
    /// The epoch that ended last, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<usize>,
    /// Mean loss over that epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Mean loss on recordings that the network has not met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Until this stage ends, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<f64>,
}

impl Progress {
    /// Before anything is done.
    #[must_use]
    pub fn begun() -> Self {
        Self::default()
    }

    /// So much of a stage.
    #[must_use]
    pub fn counted(stage: Stage, done: usize, all: usize) -> Self {
        Self { stage, done, all, ..Self::default() }
    }

    /// As the processes write it.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a process wrote; `None` if the line is something else.
    #[must_use]
    pub fn told(line: &str) -> Option<Self> {
        line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { done, all, .. } = self;
        let left = self.left_s.map(|s| format!(", {s:.0} s left")).unwrap_or_default();
        match self.stage {
            Stage::Gather => "choosing samples".into(),
            Stage::Features => format!("listening to the samples: {done} of {all}{left}"),
            Stage::Folds | Stage::Head => {
                let what =
                    if self.stage == Stage::Head { "the head" } else { "networks to judge it by" };
                let epoch = match (self.epoch, self.loss) {
                    (Some(epoch), Some(loss)) => format!(", epoch {epoch}, loss {loss:.3}"),
                    _ => String::new(),
                };
                let unmet =
                    self.val_loss.map(|loss| format!(" ({loss:.3} on what it has not met)"));
                let unmet = unmet.unwrap_or_default();
                format!("training {what}: {done} of {all}{epoch}{unmet}{left}")
            }
            Stage::Gate => format!("comparing with the model that serves: {done} of {all}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, Stage};

    #[test]
    fn stages_follow_each_other_and_have_the_words_of_the_wire() {
        for (stage, next) in Stage::ALL.iter().zip(&Stage::ALL[1..]) {
            assert_eq!((stage.next(), stage < next), (*next, true));
        }
        for stage in Stage::ALL {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
        }
    }

    #[test]
    fn a_line_says_what_was_meant_and_other_lines_say_nothing() {
        let told =
            Progress { epoch: Some(3), loss: Some(0.5), ..Progress::counted(Stage::Folds, 1, 3) };
        assert_eq!(Progress::told(&told.line()), Some(told.clone()));
        assert_eq!(told.text(), "training networks to judge it by: 1 of 3, epoch 3, loss 0.500");
        let told = Progress { val_loss: Some(0.75), ..told };
        let text = told.text();
        assert!(text.ends_with("loss 0.500 (0.750 on what it has not met)"), "{text}");
        for other in ["11 clips, 22 sounds", "{not json", "{\"stage\":\"dance\"}"] {
            assert_eq!(Progress::told(other), None, "{other}");
        }
    }
}
