//! What a candidate has in common with the model that serves: how its networks are trained, and the
//! budget of false alarms that its threshold is chosen for. Pure.

use ecosight_models::BundleFiles;
use ecosight_models::bundle::EVALUATION_FILE;
use ecosight_models::train::fit::Recipe;
use serde_json::Value;

/// Epochs without a better validation after which a network is not trained on, where the model that
/// serves does not say.
const PATIENCE: usize = 8;
/// With fewer recordings of a class, the fifth of them that would steer early stopping is missed in
/// training, and says too little: all epochs run.
const STEERED_RECORDINGS: usize = 20;
/// Where the model that serves does not say: false alarms an hour.
const ALARMS_PER_HOUR: f64 = 1.0;
/// A model may be somebody's file: what it asks for takes no more than this.
const MOST_ALARMS_PER_HOUR: f64 = 60.0;
const MOST_EPOCHS: usize = 200;
const MOST_HIDDEN: usize = 512;

/// How a candidate is made and compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    /// How its networks are trained.
    pub(super) recipe: Recipe,
    /// What its threshold is chosen for.
    pub(super) alarms_per_hour: f64,
    /// The threshold of the model that serves at this budget, where that is not its own.
    pub(super) threshold: Option<f32>,
    /// Whether the threshold that the model that serves is judged at was chosen for this budget.
    pub(super) same_budget: bool,
}

/// A candidate like `incumbent` from these streams and so many recordings of the scarcest class; `budget`
/// is what the operator set, false alarms an hour.
///
/// # Errors
/// If nobody knows the threshold of the model that serves at that budget: a sentence.
pub(super) fn like(
    incumbent: &BundleFiles,
    streams: &[String],
    recordings: usize,
    budget: Option<f64>,
) -> Result<Shape, String> {
    let evaluation: Value = incumbent
        .file(EVALUATION_FILE)
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    shaped(&evaluation, streams, recordings, budget)
}

fn shaped(
    evaluation: &Value,
    streams: &[String],
    recordings: usize,
    budget: Option<f64>,
) -> Result<Shape, String> {
    let mut recipe = serde_json::from_value::<Recipe>(evaluation["recipe"].clone())
        .ok()
        .filter(|recipe| recipe.validate().is_ok())
        .unwrap_or_default();
    for view in &mut recipe.views {
        view.retain(|stream| streams.contains(stream));
    }
    recipe.views.retain(|view| !view.is_empty());
    // A second ear is judged by a training of its own, which is not at hand here.
    recipe.second_share = 0.0;
    recipe.epochs = recipe.epochs.min(MOST_EPOCHS);
    recipe.hidden = recipe.hidden.min(MOST_HIDDEN);
    let patience = recipe.patience.unwrap_or(PATIENCE);
    recipe.patience = (recordings >= STEERED_RECORDINGS).then_some(patience);

    let own = evaluation["shipped"]["per_hour"].as_f64();
    let own = own.filter(|rate| *rate > 0.0 && *rate <= MOST_ALARMS_PER_HOUR);
    let threshold = match budget {
        Some(budget) if own != Some(budget) => Some(threshold_at(evaluation, budget)?),
        _ => None,
    };
    Ok(Shape {
        recipe,
        alarms_per_hour: budget.or(own).unwrap_or(ALARMS_PER_HOUR),
        threshold,
        same_budget: own.is_some() || threshold.is_some(),
    })
}

/// The threshold that a model's evaluation has for a rate.
fn threshold_at(evaluation: &Value, per_hour: f64) -> Result<f32, String> {
    let rates = evaluation["judgement"]["rates"].as_array();
    let at = rates.into_iter().flatten().find(|rate| rate["per_hour"].as_f64() == Some(per_hour));
    let threshold =
        at.and_then(|rate| rate["threshold"].as_f64()).map(|threshold| threshold as f32);
    threshold.filter(|threshold| threshold.is_finite()).ok_or_else(|| {
        format!(
            "learning.alarms_per_hour is {per_hour}, and the evaluation of the model that serves has no \
             threshold for it, so that nothing could be compared with it: leave the setting empty"
        )
    })
}

#[cfg(test)]
mod tests {
    use ecosight_models::train::fit::Recipe;
    use serde_json::{Value, json};

    use super::{PATIENCE, shaped};

    fn evaluation() -> Value {
        json!({
            "recipe": {
                "epochs": 50, "second_share": 0.2,
                "views": [["yamnet.l14", "transient"], ["compact"], ["compact", "transient"]],
            },
            "shipped": {"per_hour": 3.0},
            "judgement": {"rates": [{"per_hour": 1.0, "threshold": 0.9}]},
        })
    }

    fn streams() -> Vec<String> {
        ["yamnet.l14", "transient"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_candidate_is_trained_like_the_model_that_serves_and_stops_early() {
        let shape = shaped(&evaluation(), &streams(), 20, None).unwrap();
        let views = vec![streams(), vec!["transient".to_owned()]];
        let patience = Some(PATIENCE);
        let recipe = Recipe { epochs: 50, views, patience, ..Recipe::default() };
        assert_eq!(shape.recipe, recipe);
        assert_eq!((shape.alarms_per_hour, shape.threshold, shape.same_budget), (3.0, None, true));
        let few = shaped(&evaluation(), &streams(), 19, None).unwrap();
        assert_eq!(few.recipe.patience, None, "no recordings to spare to stop by");
    }

    #[test]
    fn at_another_budget_the_model_that_serves_is_judged_at_it_too() {
        let shape = shaped(&evaluation(), &streams(), 20, Some(1.0)).unwrap();
        assert_eq!((shape.alarms_per_hour, shape.threshold), (1.0, Some(0.9)));
        let own = shaped(&evaluation(), &streams(), 20, Some(3.0)).unwrap();
        assert_eq!((own.alarms_per_hour, own.threshold), (3.0, None));
        let unknown = shaped(&evaluation(), &streams(), 20, Some(10.0)).unwrap_err();
        assert!(unknown.contains("learning.alarms_per_hour is 10"), "{unknown}");
    }

    #[test]
    fn what_a_model_does_not_say_has_a_default_and_what_it_asks_for_a_limit() {
        let silent = shaped(&Value::Null, &streams(), 20, None).unwrap();
        let patience = Some(PATIENCE);
        assert_eq!(silent.recipe, Recipe { patience, ..Recipe::default() });
        assert_eq!((silent.alarms_per_hour, silent.same_budget), (1.0, false));
        let greedy =
            json!({"recipe": {"epochs": 9_999, "hidden": 4_000}, "shipped": {"per_hour": 1e9}});
        let shape = shaped(&greedy, &streams(), 20, None).unwrap();
        assert_eq!((shape.recipe.epochs, shape.recipe.hidden), (200, 512));
        assert_eq!(shape.alarms_per_hour, 1.0);
    }
}
