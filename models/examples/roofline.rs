//! Prints, layer by layer, how near the fused network comes to what this machine can do on one
//! thread: the table of `docs/benchmarks.md`.
//!
//! Arguments: the imported YAMNet, and windows at once (1 if not said).

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use ecosight_models::KernelChoice;
use ecosight_models::yamnet::{Backbone, Exit};

/// Rounds that are timed.
const ROUNDS: usize = 400;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let yamnet = PathBuf::from(arguments.next().context("usage: roofline YAMNET [WINDOWS]")?);
    let windows = arguments.next().map_or(Ok(1), |text| text.parse::<usize>())?.max(1);
    let backbone = Backbone::load(Some(&yamnet), &[Exit::Scores], false)?;
    let (machine, layers) = backbone
        .roofline(windows, ROUNDS.div_ceil(windows))
        .context("nothing is fused: ECOSIGHT_KERNELS is tract, or this is no x86-64 processor")?;
    let mut out = std::io::stdout().lock();
    let (peak, memory) = (machine.products_per_second, machine.bytes_per_second);
    writeln!(
        out,
        "kernels {}, {windows} at once; peak {:.1} GMAC/s, weights come at {:.1} GB/s\n",
        KernelChoice::Automatic.resolved()?,
        peak / 1e9,
        memory / 1e9
    )?;
    writeln!(
        out,
        "| layer | M MAC | weights KiB | µs median | µs least | GMAC/s | of peak | bound |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    let mut sums = (0.0, 0.0, 0.0);
    for layer in &layers {
        let (products, least) = (layer.products as f64, layer.least.as_secs_f64());
        let compute = products / peak;
        // Images stay in the near cache; the weights of the whole network do not, so that each run
        // fetches them.
        let weights = layer.weight_bytes as f64 / memory / windows as f64;
        let bound = if weights > compute { "weights" } else { "arithmetic" };
        writeln!(
            out,
            "| {} | {:.2} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} % | {bound}: {:.1} µs |",
            layer.description,
            products / 1e6,
            layer.weight_bytes as f64 / 1024.0,
            layer.median.as_secs_f64() * 1e6,
            least * 1e6,
            products / least / 1e9,
            100.0 * compute / least,
            compute.max(weights) * 1e6,
        )?;
        sums.0 += products;
        sums.1 += layer.median.as_secs_f64();
        sums.2 += least;
    }
    writeln!(
        out,
        "| all | {:.2} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} % | arithmetic: {:.1} µs |",
        sums.0 / 1e6,
        layers.iter().map(|layer| layer.weight_bytes as f64).sum::<f64>() / 1024.0,
        sums.1 * 1e6,
        sums.2 * 1e6,
        sums.0 / sums.2 / 1e9,
        100.0 * sums.0 / peak / sums.2,
        sums.0 / peak * 1e6,
    )?;
    Ok(())
}
