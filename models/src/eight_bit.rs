//! Matrices whose columns are whole multiples, −127 to 127 times, of one number each: what symmetric
//! quantisation makes of weights. Kept as these integers, in a file and in memory, they take a quarter
//! of the room, and nothing is lost.

/// The number of which all weights of a column are multiples, -127 to 127 times, column by column;
/// `None` if a column has none. The matrix is `[depth, columns]`, given by `weight(k, column)`.
///
/// Symmetric quantisation gives the integer 127 to the largest weight of a column, or of the whole
/// matrix.
pub(crate) fn scales(
    depth: usize,
    columns: usize,
    weight: impl Fn(usize, usize) -> f32,
) -> Option<Vec<f32>> {
    let largest = |column| (0..depth).map(|k| weight(k, column).abs()).fold(0.0, f32::max);
    let of_columns: Vec<f32> = (0..columns).map(largest).collect();
    let of_all = of_columns.iter().copied().fold(0.0, f32::max);
    let fits = |column: usize, largest: f32| {
        let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        let exact = |k| {
            let weight = weight(k, column);
            let multiple = f32::from(integer(weight, scale)) * scale;
            (weight - multiple).abs() <= EXACT * largest
        };
        (0..depth).all(exact).then_some(scale)
    };
    let columns = of_columns.into_iter().enumerate();
    columns
        .map(|(column, largest)| fits(column, largest).or_else(|| fits(column, of_all)))
        .collect()
}

/// Which multiple of `scale` a weight is.
pub(crate) fn integer(weight: f32, scale: f32) -> i8 {
    /// At this size a float32 has no room for fractions: rounding by it is far quicker than the
    /// library's on a processor of the oldest kind.
    const COARSE: f32 = 12_582_912.0;
    ((weight / scale + COARSE) - COARSE) as i8
}

/// Largest difference, relative to a column's largest weight, that comes from rounding alone: two
/// units in the last place.
const EXACT: f32 = 2.0 * f32::EPSILON;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_or_the_matrix_may_have_the_scale_and_anything_else_has_none() {
        let scale = [0.013, 0.2, 1e-7];
        let whole = |k: usize, c: usize| ((k * 31 + c * 7) % 255) as f32 - 127.0;
        let by_column = |k: usize, c: usize| if k == c { 127.0 } else { whole(k, c) } * scale[c];
        let found = scales(40, 3, by_column).unwrap();
        for (c, scale) in found.iter().enumerate() {
            for k in 0..40 {
                let back = f32::from(integer(by_column(k, c), *scale)) * scale;
                assert!((back - by_column(k, c)).abs() <= 127.0 * scale * EXACT);
            }
        }
        // 0.1 is no whole part of 127ths of 0.3.
        let by_matrix = |k: usize, c: usize| [[12.7, 0.2, 0.1], [0.1, 0.3, 0.1]][k][c];
        assert_eq!(scales(2, 3, by_matrix).unwrap()[1], 12.7 / 127.0);
        assert_eq!(scales(5, 3, |_, _| 0.0), Some(vec![1.0; 3]));
        let off = |k: usize, c: usize| by_column(k, c) * if (k, c) == (7, 1) { 1.001 } else { 1.0 };
        assert_eq!(scales(40, 3, off), None);
    }
}
