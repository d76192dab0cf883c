//! What the station tells of the machine it runs on.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ecosight_agent::clock::Clock;
use ecosight_agent::condition::Teller;
use ecosight_agent::health::{Health, Loss, cpu_temperature_dc, power};
use ecosight_shared::json::{PowerReport, StationHealth};
use tempfile::tempdir;

use crate::station::write;
use crate::support::START_US;

/// A file of the kernel's in `sysfs`.
fn tell(sysfs: &Path, file: &str, text: &str) {
    let path = sysfs.join(file);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    write(&path, text.as_bytes());
}

#[test]
fn a_raspberry_pi_tells_what_holds_it_back_and_how_it_is_fed() {
    let sysfs = tempdir().expect("a directory");
    assert_eq!(power(sysfs.path()), None, "a machine that tells nothing");
    assert_eq!(cpu_temperature_dc(sysfs.path()), None);
    tell(sysfs.path(), "class/thermal/thermal_zone0/temp", "48312\n");
    assert_eq!(cpu_temperature_dc(sysfs.path()), Some(483));

    let firmware = "devices/platform/soc/soc:firmware/get_throttled";
    tell(sysfs.path(), firmware, "0\n");
    assert_eq!(power(sysfs.path()), Some(PowerReport::default()));
    tell(sysfs.path(), firmware, "50005\n");
    let held_back = ["under-voltage", "throttled"].map(String::from).to_vec();
    let expected =
        PowerReport { limits: held_back.clone(), limits_since_boot: held_back, supply_v: None };
    assert_eq!(power(sysfs.path()), Some(expected));

    tell(sysfs.path(), "class/hwmon/hwmon0/name", "cpu_thermal\n");
    tell(sysfs.path(), "class/hwmon/hwmon0/in1_input", "1\n");
    tell(sysfs.path(), "class/hwmon/hwmon1/name", "rpi_volt\n");
    tell(sysfs.path(), "class/hwmon/hwmon1/in1_input", "4830\n");
    assert_eq!(power(sysfs.path()).and_then(|power| power.supply_v), Some(4.83));
}

#[test]
fn the_status_tells_of_the_machine_and_of_every_loss() {
    let (data, sysfs) = (tempdir().expect("a directory"), tempdir().expect("a directory"));
    tell(sysfs.path(), "devices/platform/soc@1/soc@1:firmware/get_throttled", "0x1\n");
    let health = Arc::new(Health::default());
    let clock = Clock::from_fn(|| START_US);
    let teller = Teller::new(Arc::clone(&health), clock, None, "off", data.path());
    let teller = teller.reading(sysfs.path());
    health.lost(1_600);
    health.gap();
    let counts = [
        (Loss::Overrun, 1),
        (Loss::Window, 2),
        (Loss::Clip, 3),
        (Loss::Flac, 4),
        (Loss::RingPiece, 5),
        (Loss::Telemetry, 6),
        (Loss::Record, 7),
    ];
    for (what, times) in counts {
        health.count(what, times);
    }
    health.set_records_given_up([8, 9, 10]);
    let told: StationHealth =
        serde_json::from_str(&serde_json::to_string(&teller.health()).expect("JSON"))
            .expect("reads back");
    assert_eq!(told.power.expect("told").limits, ["under-voltage"]);
    let losses = serde_json::to_value(told.losses).expect("JSON");
    let expected = serde_json::json!({
        "dropped_samples": 1_600, "gaps": 1, "overruns": 1, "failed_windows": 2,
        "clips_given_up": 3, "flac_failures": 4, "ring_pieces": 5, "telemetry_refused": 6,
        "records_lost": 7, "alerts_given_up": 8, "detections_given_up": 9,
        "telemetry_given_up": 10,
    });
    assert_eq!(losses, expected);
}
