//! Path: table → this → inputs of the networks
//!
//! A network's inner layer gives a thousand numbers that mostly say the same, and with a few dozen
//! recordings of shots a head that takes them all learns the recordings. So each wide stream is
//! standardised and brought down to its strongest directions, all made equally strong (principal
//! components, whitened); narrow streams are standardised only. Directions are taken from the rows
//! that are trained on. Being linear, they are multiplied into the head's first layer in the end:
//! a bundle knows nothing of them.

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::net::{Dense, Net};

/// Standardised features are cut at this many standard deviations, here and in the bundle: one odd
/// window moves nothing in training, and sound unlike any that was trained on stays in range.
pub const FEATURE_LIMIT: f32 = 8.0;
/// Most rows that directions are taken from.
const SAMPLE: usize = 16_384;
/// Directions that are followed beyond those that are kept, and rounds of following them: enough
/// for the kept ones to stand still.
const SPARE: usize = 16;
const ROUNDS: usize = 12;
/// Directions weaker than this share of a feature's variance are noise.
const LEAST_VARIANCE: f32 = 1e-4;

/// One stream's place among the features of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamColumns {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Range<usize>,
}

/// Takes raw features to what the networks see.
#[derive(Clone, Debug)]
pub struct Compression {
    /// Mean of each raw feature.
    pub mean: Array1<f32>,
    /// 1 / standard deviation of each raw feature; 0 for a feature that never changes.
    pub scale: Array1<f32>,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    name: String,
    from: Range<usize>,
    to: Range<usize>,
    /// `[from, to]`; `None` passes the columns on.
    axes: Option<Array2<f32>>,
}

impl Compression {
    /// Learns from `rows` of a table (`[windows, features]`, raw, at least one row). Streams wider
    /// than `components` are brought down to as many; 0 compresses nothing.
    pub fn fit(
        features: ArrayView2<'_, f32>,
        rows: &[usize],
        streams: &[StreamColumns],
        components: usize,
    ) -> Self {
        let (mean, scale) = moments(features, rows);
        let mut compression = Self { mean, scale, parts: Vec::new() };
        let step = rows.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<usize> = rows.iter().copied().step_by(step).collect();
        let mut end = 0;
        for stream in streams {
            let wide = components > 0 && stream.columns.len() > components;
            let axes = wide.then(|| {
                let values = compression.standardised(features, &sample, stream.columns.clone());
                principal(values.view(), components)
            });
            let width = axes.as_ref().map_or(stream.columns.len(), Array2::ncols);
            compression.parts.push(Part {
                name: stream.name.clone(),
                from: stream.columns.clone(),
                to: end..end + width,
                axes,
            });
            end += width;
        }
        compression
    }

    /// Columns of [`Self::apply`] that come from the streams named in `view`, in stream order; all
    /// for an empty view.
    pub fn columns(&self, view: &[String]) -> Vec<usize> {
        let chosen = |part: &&Part| view.is_empty() || view.contains(&part.name);
        self.parts.iter().filter(chosen).flat_map(|part| part.to.clone()).collect()
    }

    /// Rows of a table of raw features, as the networks see them.
    pub fn apply(&self, features: ArrayView2<'_, f32>, rows: &[usize]) -> Array2<f32> {
        let width = self.parts.last().map_or(0, |part| part.to.end);
        let mut out = Array2::zeros((rows.len(), width));
        // In pieces, so that a whole data set does not stand in memory twice.
        for (chunk, mut out) in rows.chunks(1024).zip(out.axis_chunks_iter_mut(Axis(0), 1024)) {
            for part in &self.parts {
                let values = self.standardised(features, chunk, part.from.clone());
                let mut out = out.slice_mut(s![.., part.to.clone()]);
                match &part.axes {
                    Some(axes) => out.assign(&values.dot(axes)),
                    None => out.assign(&values),
                }
            }
        }
        out
    }

    /// The network over standardised raw features that gives what `net` gives over the columns of
    /// `view`.
    pub fn expand(&self, net: &Net, view: &[String]) -> Net {
        let inputs = self.mean.len();
        let expand = |dense: &Dense| {
            let mut weight = Array2::zeros((inputs, dense.weight.ncols()));
            let mut taken = 0;
            for part in self.parts.iter().filter(|p| view.is_empty() || view.contains(&p.name)) {
                let own = dense.weight.slice(s![taken..taken + part.to.len(), ..]);
                let mut place = weight.slice_mut(s![part.from.clone(), ..]);
                match &part.axes {
                    Some(axes) => place.assign(&axes.dot(&own)),
                    None => place.assign(&own),
                }
                taken += part.to.len();
            }
            Dense { weight, bias: dense.bias.clone() }
        };
        match &net.hidden {
            Some(hidden) => Net { hidden: Some(expand(hidden)), output: net.output.clone() },
            None => Net { hidden: None, output: expand(&net.output) },
        }
    }

    fn standardised(
        &self,
        features: ArrayView2<'_, f32>,
        rows: &[usize],
        columns: Range<usize>,
    ) -> Array2<f32> {
        let mut values = features.slice(s![.., columns.clone()]).select(Axis(0), rows);
        values -= &self.mean.slice(s![columns.clone()]);
        values *= &self.scale.slice(s![columns]);
        values.mapv_inplace(|value| value.clamp(-FEATURE_LIMIT, FEATURE_LIMIT));
        values
    }
}

/// Mean and inverse standard deviation of each feature, unweighted.
fn moments(features: ArrayView2<'_, f32>, rows: &[usize]) -> (Array1<f32>, Array1<f32>) {
    let width = features.ncols();
    let count = rows.len().max(1) as f64;
    let mut sum = Array1::<f64>::zeros(width);
    for &row in rows {
        sum.zip_mut_with(&features.row(row), |sum, &value| *sum += f64::from(value));
    }
    let mean = sum / count;
    let mut square = Array1::<f64>::zeros(width);
    for &row in rows {
        ndarray::Zip::from(&mut square)
            .and(&mean)
            .and(&features.row(row))
            .for_each(|square, &mean, &value| *square += (f64::from(value) - mean).powi(2));
    }
    let scale = square.mapv(|square| {
        let deviation = (square / count).sqrt();
        if deviation > 1e-6 { (1.0 / deviation) as f32 } else { 0.0 }
    });
    (mean.mapv(|mean| mean as f32), scale)
}

/// `[columns, kept]`: the strongest directions of `values`, strongest first, each scaled so that
/// the values vary by 1 along it; 0 where they hardly vary.
///
/// Block power iteration, then the small problem within the block by Jacobi rotations.
fn principal(values: ArrayView2<'_, f32>, kept: usize) -> Array2<f32> {
    let columns = values.ncols();
    let covariance = values.t().dot(&values) / values.nrows().max(1) as f32;
    let block = (kept + SPARE).min(columns);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut axes =
        Array2::from_shape_simple_fn((columns, block), || rng.random_range(-1.0..1.0f32));
    for _ in 0..ROUNDS {
        axes = covariance.dot(&axes);
        orthonormalise(&mut axes);
    }
    let (variance, rotation) = jacobi(axes.t().dot(&covariance.dot(&axes)));
    let mut order: Vec<usize> = (0..block).collect();
    order.sort_by(|&a, &b| variance[b].total_cmp(&variance[a]));
    order.truncate(kept);
    let mut axes = axes.dot(&rotation.select(Axis(1), &order));
    for (mut axis, &index) in axes.columns_mut().into_iter().zip(&order) {
        let variance = variance[index];
        axis *= if variance > LEAST_VARIANCE { variance.sqrt().recip() } else { 0.0 };
    }
    axes
}

/// Gram-Schmidt, twice for the sake of rounding; a direction that depends on those before it
/// becomes zero.
fn orthonormalise(axes: &mut Array2<f32>) {
    for index in 0..axes.ncols() {
        let (before, mut rest) = axes.view_mut().split_at(Axis(1), index);
        let mut axis = rest.column_mut(0);
        let start = axis.dot(&axis).sqrt();
        for _ in 0..2 {
            let along = before.t().dot(&axis);
            axis -= &before.dot(&along);
        }
        let length = axis.dot(&axis).sqrt();
        axis *= if length > 1e-5 * start { length.recip() } else { 0.0 };
    }
}

/// Eigenvalues and eigenvectors (columns) of a small symmetric matrix.
fn jacobi(matrix: Array2<f32>) -> (Vec<f32>, Array2<f32>) {
    let size = matrix.nrows();
    let mut m = matrix.mapv(f64::from);
    let mut vectors = Array2::<f64>::eye(size);
    for _ in 0..12 {
        for p in 0..size {
            for q in p + 1..size {
                let off = m[[p, q]];
                if off.abs() <= 1e-12 * (m[[p, p]] * m[[q, q]]).abs().sqrt() {
                    continue;
                }
                let theta = (m[[q, q]] - m[[p, p]]) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = t.hypot(1.0).recip();
                let s = t * c;
                for k in 0..size {
                    let (a, b) = (m[[k, p]], m[[k, q]]);
                    m[[k, p]] = c * a - s * b;
                    m[[k, q]] = s * a + c * b;
                }
                for k in 0..size {
                    let (a, b) = (m[[p, k]], m[[q, k]]);
                    m[[p, k]] = c * a - s * b;
                    m[[q, k]] = s * a + c * b;
                    let (a, b) = (vectors[[k, p]], vectors[[k, q]]);
                    vectors[[k, p]] = c * a - s * b;
                    vectors[[k, q]] = s * a + c * b;
                }
            }
        }
    }
    (m.diag().iter().map(|v| *v as f32).collect(), vectors.mapv(|v| v as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve columns that three hidden numbers make, one column that never changes, two more.
    fn table() -> (Array2<f32>, Vec<StreamColumns>) {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mix = Array2::from_shape_simple_fn((3, 12), || rng.random_range(-1.0..1.0f32));
        let hidden = Array2::from_shape_simple_fn((500, 3), || rng.random_range(-1.0..1.0f32));
        let mut features = Array2::from_elem((500, 15), 3.0);
        features.slice_mut(s![.., ..12]).assign(&(hidden.dot(&mix) * 5.0 + 2.0));
        features.column_mut(14).assign(&hidden.column(0));
        let stream = |name: &str, columns| StreamColumns { name: name.to_owned(), columns };
        (features, vec![stream("wide", 0..12), stream("narrow", 12..15)])
    }

    #[test]
    fn a_wide_stream_becomes_few_directions_of_equal_strength() {
        let (features, streams) = table();
        let rows: Vec<usize> = (0..500).collect();
        let compression = Compression::fit(features.view(), &rows, &streams, 4);
        let out = compression.apply(features.view(), &rows);
        assert_eq!(out.dim(), (500, 7));
        let wide = out.slice(s![.., ..4]);
        let covariance = wide.t().dot(&wide) / 500.0;
        for ((a, b), value) in covariance.indexed_iter() {
            // Three directions hold everything; the fourth has nothing to say.
            let expected = if a == b && a < 3 { 1.0 } else { 0.0 };
            assert!((value - expected).abs() < 0.02, "{covariance}");
        }
        assert_eq!(compression.columns(&["narrow".to_owned()]), [4, 5, 6]);
    }

    #[test]
    fn an_expanded_network_says_the_same_of_raw_features() {
        let (features, streams) = table();
        let rows: Vec<usize> = (0..500).collect();
        let compression = Compression::fit(features.view(), &rows, &streams, 4);
        let inputs = compression.apply(features.view(), &rows);
        let mut standardised = (&features - &compression.mean) * &compression.scale;
        standardised.mapv_inplace(|value| value.clamp(-FEATURE_LIMIT, FEATURE_LIMIT));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for hidden in [0, 6] {
            for view in [vec![], vec!["wide".to_owned()]] {
                let columns = compression.columns(&view);
                let mut net = Net::new(columns.len(), hidden, 3, &mut rng);
                net.output.weight += 0.1;
                let small = net.logits(inputs.select(Axis(1), &columns).view());
                let full = compression.expand(&net, &view).logits(standardised.view());
                assert!((small - full).iter().all(|d| d.abs() < 1e-3));
            }
        }
    }
}
