//! The machine: what the kernel says of it.

use std::path::Path;

/// Temperature of the processor in tenths of a degree Celsius, where the kernel tells it.
#[must_use]
pub fn cpu_temperature_dc() -> Option<i16> {
    // Thousandths of a degree: Documentation/driver-api/thermal/sysfs-api.rst of the kernel.
    let text = std::fs::read_to_string("/sys/class/thermal/thermal_zone0/temp").ok()?;
    let thousandths: i32 = text.trim().parse().ok()?;
    i16::try_from(thousandths / 100).ok()
}

/// Bytes that this user may still write below `path`; nothing if the system does not say.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
