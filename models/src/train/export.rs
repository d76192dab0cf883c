//! Path: table → this → files for a closer look
//!
//! The table as other programs read it: features as a NumPy array of half floats, one line of CSV
//! for what is known of each row. For notebooks and comparisons; nothing here reads it back.

use half::f16;
use ndarray::ArrayView2;

use super::labels::LabelMap;
use super::material::Library;
use super::table::Table;
use crate::SAMPLE_RATE_HZ;

/// `[rows, columns]` as an `.npy` file of little-endian half floats.
pub fn npy(values: ArrayView2<'_, f32>) -> Vec<u8> {
    let (rows, columns) = values.dim();
    let mut header =
        format!("{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic, version and length take 10 bytes; the data begin at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - header.len() - 1));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.reserve(2 * values.len());
    bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()));
    bytes
}

/// One line per row: clip, form and copy, where it begins, what it is. `classes` (one column per
/// class) are scores of the rows, where there are any.
///
/// # Errors
/// Of the CSV writer.
pub fn rows_csv(
    library: &Library,
    labels: &LabelMap,
    table: &Table,
    scores: Option<ArrayView2<'_, f32>>,
) -> Result<Vec<u8>, csv::Error> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let mut header: Vec<&str> = vec![
        "item", "clip", "label", "source", "group", "fold", "form", "copy", "start_s", "class",
        "example",
    ];
    if scores.is_some() {
        header.extend(labels.classes.iter().map(|class| class.name.as_str()));
    }
    out.write_record(&header)?;
    for (index, row) in table.rows.iter().enumerate() {
        let item = &table.items[row.item];
        let clip = item.clip.map(|clip| &library.clips()[clip]);
        let text = |part: Option<&String>| part.cloned().unwrap_or_default();
        let mut record = vec![
            row.item.to_string(),
            text(clip.map(|clip| &clip.name)),
            text(clip.map(|clip| &clip.label)),
            text(clip.map(|clip| &clip.source)),
            text(clip.map(|clip| &clip.group)),
            item.fold.to_string(),
            format!("{:?}", item.form),
            item.copy.to_string(),
            format!("{:.2}", row.start as f64 / f64::from(SAMPLE_RATE_HZ)),
            row.class.to_string(),
            row.example.to_string(),
        ];
        if let Some(scores) = scores {
            record.extend(scores.row(index).iter().map(|score| format!("{score:.6}")));
        }
        out.write_record(&record)?;
    }
    out.into_inner().map_err(|error| error.into_error().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_laid_out_as_numpy_reads_it() {
        let bytes = npy(ndarray::array![[1.0, -2.0, 0.5], [0.0, 4.0, 8.0]].view());
        let length = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert!(header.contains("'shape': (2, 3)") && header.ends_with('\n'), "{header}");
        let data: Vec<u16> =
            bytes[10 + length..].as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        let expected = [1.0, -2.0, 0.5, 0.0, 4.0, 8.0].map(|v| f16::from_f32(v).to_bits());
        assert_eq!(data, expected);
    }
}
