//! The machine: what the kernel says of it.

use std::fs;
use std::path::{Path, PathBuf};

use ecosight_shared::json::PowerReport;

/// Where the kernel tells of the machine.
pub const SYSFS: &str = "/sys";

/// What the firmware of a Raspberry Pi holds its processor back for, by bit; the same 16 bits higher if it
/// did since the machine started (documentation/raspbian of the Raspberry Pi: `vcgencmd
/// get_throttled`).
const THROTTLED: [(u32, &str); 4] = [
    (0, "under-voltage"),
    (1, "frequency capped"),
    (2, "throttled"),
    (3, "soft temperature limit"),
];
/// Sensors of a supply: that of the Raspberry Pi itself, and those of boards for batteries and solar cells.
const SUPPLIES: [&str; 6] = ["rpi_volt", "ina219", "ina220", "ina226", "ina238", "ina260"];

/// Temperature of the processor in tenths of a degree Celsius, where the kernel tells it.
#[must_use]
pub fn cpu_temperature_dc(sysfs: &Path) -> Option<i16> {
    // Thousandths of a degree: Documentation/driver-api/thermal/sysfs-api.rst of the kernel.
    let thousandths: i32 = number(&sysfs.join("class/thermal/thermal_zone0/temp"))?;
    i16::try_from(thousandths / 100).ok()
}

/// How the machine is fed, where the kernel tells anything of it.
#[must_use]
pub fn power(sysfs: &Path) -> Option<PowerReport> {
    let bits = throttled(sysfs);
    let supply_v = supply_v(sysfs);
    if bits.is_none() && supply_v.is_none() {
        return None;
    }
    let bits = bits.unwrap_or(0);
    let names = |bits: u32| {
        let set = THROTTLED.iter().filter(|(bit, _)| bits >> bit & 1 == 1);
        set.map(|(_, name)| (*name).to_owned()).collect()
    };
    Some(PowerReport { limits: names(bits), limits_since_boot: names(bits >> 16), supply_v })
}

/// The firmware's word, hexadecimal.
fn throttled(sysfs: &Path) -> Option<u32> {
    // The names differ between models: `soc/soc:firmware`, `soc@107c000000/soc@…:firmware`.
    let firmware = folders(&sysfs.join("devices/platform"), |name| name.starts_with("soc"))
        .into_iter()
        .flat_map(|soc| folders(&soc, |name| name.ends_with("firmware")));
    let texts = firmware.filter_map(|path| fs::read_to_string(path.join("get_throttled")).ok());
    let mut words = texts.filter_map(|text| {
        let text = text.trim();
        u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    });
    words.next()
}

/// Volts of the first sensor of a supply: thousandths in the kernel's file
/// (Documentation/hwmon/sysfs-interface.rst).
fn supply_v(sysfs: &Path) -> Option<f32> {
    let monitors = folders(&sysfs.join("class/hwmon"), |name| name.starts_with("hwmon"));
    let mut supplies = monitors.iter().filter(|path| {
        let name = fs::read_to_string(path.join("name")).unwrap_or_default();
        SUPPLIES.contains(&name.trim())
    });
    supplies.find_map(|path| number::<f32>(&path.join("in1_input"))).map(|mv| mv / 1_000.0)
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Folders, and links to such, in a directory, by name.
fn folders(directory: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    found.sort_unstable();
    found
}

/// Bytes that this user may still write below `path`; nothing if the system does not say.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
