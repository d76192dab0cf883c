//! Writes the golden sounds as raw little-endian float32, 16 kHz mono, one file each, for
//! `models/reference/golden_embeddings.py`: `cargo run --example golden_sounds -- DIR`.

use std::path::Path;

use ecosight_models::durable;
use ecosight_models::yamnet::accept::{SECONDS, SEED};
use ecosight_models::yamnet::golden::Sound;

fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: golden_sounds DIR"))?;
    for sound in Sound::ALL {
        let bytes: Vec<u8> =
            sound.render(SEED, SECONDS).iter().flat_map(|sample| sample.to_le_bytes()).collect();
        durable::write_file(&Path::new(&dir).join(format!("{}.f32", sound.name())), &bytes)?;
    }
    Ok(())
}
