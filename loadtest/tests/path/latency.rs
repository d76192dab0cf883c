//! How soon a ranger knows: the everyday size of `make bench-alerts`.

use anyhow::{Result, ensure};

use crate::world::printed;

/// Other programs may run beside it; the promise of two seconds is measured on a quiet machine.
const LIMIT_MS: &str = "4000";

#[test]
fn a_shot_in_the_stream_is_soon_an_alert_at_the_broker() -> Result<()> {
    let run = ["alerts", "--stations", "2", "--shots", "3", "--spacing", "7"];
    let wanted = ["--at-least", "4", "--limit-ms", LIMIT_MS];
    let said = String::from_utf8(printed("ecosight-load", &[&run[..], &wanted].concat())?)?;
    println!("{said}");
    ensure!(said.contains("2 stations at real time, 6 shots"), "{said}");
    Ok(())
}
