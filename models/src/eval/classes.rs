//! Which class is taken for which: confusion matrix, precision, recall, F1.

/// Counts of (true class, called class).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// What the confusion matrix says of one class. A ratio without a denominator is `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassReport {
    /// Examples that are of the class.
    pub support: u64,
    /// Share of the calls that were right.
    pub precision: Option<f64>,
    /// Share of the examples that were called.
    pub recall: Option<f64>,
    /// Harmonic mean of the two.
    pub f1: Option<f64>,
}

impl Confusion {
    /// An empty matrix.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one example.
    ///
    /// # Panics
    /// When a class index is out of range.
    pub fn record(&mut self, truth: usize, called: usize) {
        assert!(truth < self.classes && called < self.classes, "class index out of range");
        self.counts[truth * self.classes + called] += 1;
    }

    /// Examples of class `truth` that were called `called`.
    pub fn count(&self, truth: usize, called: usize) -> u64 {
        self.counts[truth * self.classes + called]
    }

    /// One row per true class, in class order.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks(self.classes.max(1))
    }

    /// Share of examples called right; `None` when there are none.
    pub fn accuracy(&self) -> Option<f64> {
        let right = (0..self.classes).map(|class| self.count(class, class)).sum();
        ratio(right, self.counts.iter().sum())
    }

    /// Precision, recall and F1 of one class.
    pub fn class(&self, class: usize) -> ClassReport {
        let right = self.count(class, class);
        let support = (0..self.classes).map(|called| self.count(class, called)).sum();
        let calls = (0..self.classes).map(|truth| self.count(truth, class)).sum::<u64>();
        ClassReport {
            support,
            precision: ratio(right, calls),
            recall: ratio(right, support),
            f1: ratio(2 * right, support + calls),
        }
    }

    /// Unweighted mean F1 of the classes that occur; `None` when none does.
    pub fn macro_f1(&self) -> Option<f64> {
        let present: Vec<f64> = (0..self.classes)
            .map(|class| self.class(class))
            .filter(|report| report.support > 0)
            .filter_map(|report| report.f1)
            .collect();
        (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // truth a: 3 right, 1 called b; truth b: 2 right, 2 called a; c never occurs nor is called.
    fn example() -> Confusion {
        let mut confusion = Confusion::new(3);
        for (truth, called) in [(0, 0), (0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (1, 0), (1, 0)] {
            confusion.record(truth, called);
        }
        confusion
    }

    #[test]
    fn per_class_numbers_are_the_hand_computed_ones() {
        let a = example().class(0);
        assert_eq!(a.support, 4);
        assert_eq!(a.precision, Some(3.0 / 5.0));
        assert_eq!(a.recall, Some(3.0 / 4.0));
        assert_eq!(a.f1, Some(6.0 / 9.0));
        assert_eq!(example().accuracy(), Some(5.0 / 8.0));
        let b_f1 = 4.0 / 7.0;
        assert!((example().macro_f1().unwrap() - (6.0 / 9.0 + b_f1) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_class_that_never_occurs_has_no_ratios() {
        let c = example().class(2);
        assert_eq!((c.support, c.precision, c.recall, c.f1), (0, None, None, None));
        assert_eq!(Confusion::new(2).accuracy(), None);
    }
}
