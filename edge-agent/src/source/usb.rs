//! A sound card by the serial number of its USB plug: the one name that stays when others are
//! plugged in first.

use std::fs;
use std::path::Path;

/// Prefix of such a name in the configuration.
pub const PREFIX: &str = "usb:";

/// Where the kernel lists sound cards.
pub const SOUND_CLASS: &str = "/sys/class/sound";

/// ALSA's name of the card with this serial number, below `class` (see [`SOUND_CLASS`]).
///
/// # Errors
/// There is none; the text lists the serial numbers there are.
pub fn card(serial: &str, class: &Path) -> Result<String, String> {
    let mut known = Vec::new();
    let entries = fs::read_dir(class).into_iter().flatten().flatten();
    for card in entries.map(|entry| entry.path()) {
        let is_card =
            card.file_name().is_some_and(|name| name.to_string_lossy().starts_with("card"));
        let Some(id) = is_card.then(|| text(&card.join("id"))).flatten() else { continue };
        // `device` is the interface; the plug with the serial number is above it.
        let Ok(device) = card.join("device").canonicalize() else { continue };
        let found = device.ancestors().take(4).find_map(|folder| text(&folder.join("serial")));
        match found {
            Some(found) if found == serial => return Ok(format!("plughw:CARD={id}")),
            Some(found) => known.push(format!("{found} ({id})")),
            None => {}
        }
    }
    known.sort();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(format!(
        "no sound card with the USB serial number \"{serial}\"; plug it in, or set source.device \
         (serial numbers here: {known})"
    ))
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
