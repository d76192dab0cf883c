//! The whole way through cpal and ALSA, whose `file` plug-in stands in for a sound card. What only a
//! card can do, such as being unplugged, is not here.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ecosight_agent::config;
use ecosight_agent::health::Health;
use ecosight_agent::source::{self, Begin};
use ecosight_shared::SourceState;
use tempfile::tempdir;

use crate::sources::{check_ramp, ramp};
use crate::station::write;

/// Names the device to the child.
const DEVICE: &str = "ECOSIGHT_CHILD_DEVICE";
/// Samples that the child wants: less than the queue holds, so that none may be missing.
const WANTED: u64 = 100_000;

#[test]
#[ignore = "the child with a sound card of its own"]
fn child_with_a_sound_card() {
    let Ok(device) = std::env::var(DEVICE) else { return };
    let health = Arc::new(Health::default());
    let config = config::Source {
        device: Some(device),
        rate: Some(16_000),
        channels: Some(1),
        ..config::Source::default()
    };
    let mut source = source::open(&config, Begin::default(), &health).expect("opens");
    let (mut reads, mut count) = (Vec::new(), 0);
    while count < WANTED {
        let mut block = Vec::new();
        let read = source.read(&mut block).expect("reads");
        count += block.len() as u64;
        reads.push((read, block));
    }
    let (heard, gaps) = check_ramp(reads);
    assert!(heard >= WANTED && gaps.iter().all(|lost| *lost == 0), "{heard} heard, gaps {gaps:?}");
    assert_eq!(health.source(), SourceState::Healthy);
    println!("heard {heard}");
}

#[test]
fn a_sound_card_is_heard_sample_by_sample() {
    let system = Path::new("/usr/share/alsa/alsa.conf");
    assert!(system.is_file(), "needs libasound2-data, which comes with libasound2");
    let directory = tempdir().expect("a directory");
    let (sound, config) = (directory.path().join("ramp"), directory.path().join("asound.conf"));
    // As cpal asks for: 32-bit floats.
    let samples = (0..2_000_000).map(|place| f32::from(ramp(place)) / 32_768.0);
    write(&sound, &samples.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    let text = format!(
        "<{}>\npcm.ramp {{\n type file\n slave.pcm {{ type null }}\n file \"/dev/null\"\n \
         infile \"{}\"\n format \"raw\"\n hint {{ show on description \"A ramp\" }}\n}}\n",
        system.display(),
        sound.display()
    );
    write(&config, text.as_bytes());
    let child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "sound_card::child_with_a_sound_card", "--ignored", "--nocapture"])
        .env("ALSA_CONFIG_PATH", &config)
        .env(DEVICE, "ramp")
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("heard 1"), "{said}{errors}");
}
