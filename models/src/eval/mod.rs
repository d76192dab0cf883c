//! Path: scores and true labels → eval → numbers that a person decides by
//!
//! Plain slices in, plain numbers out; nothing here knows a model, a file or a clock. A measure
//! that is not defined for its input (no positives, no hours) is `None`, never a silent zero.

mod alarms;
#[cfg(feature = "train")]
mod bootstrap;
mod calibration;
mod classes;
mod poisson;
mod ranking;

pub use alarms::{Operating, alarm_threshold, operating_point, paired_peak};
#[cfg(feature = "train")]
pub use bootstrap::{Interval, bootstrap_by_group};
pub use calibration::{CalibrationBin, expected_calibration_error, reliability};
pub use classes::{ClassReport, Confusion};
pub use poisson::poisson_interval;
pub use ranking::{PrecisionRecall, average_precision, precision_recall_curve, roc_auc};
