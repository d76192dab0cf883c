//! Whatever is uploaded: no panic, no time, no memory; and what comes out is sound.
//!
//! Seeds are files of every format: `cargo fuzz run decode corpus seeds ../tests/models/fixtures`.
//! Without a fuzzer, a million mutations of the same files, always the same ones:
//! `ECOSIGHT_MUTATIONS=1000000 cargo nextest run --workspace --all-features --all-targets -E
//! 'test(mutated_files_cost)'`.

#![no_main]

use ecosight_models::audio::{AudioReader, DecodeLimits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = DecodeLimits { max_bytes: 1 << 20, max_seconds: 4.0 };
    let Ok(mut reader) = AudioReader::from_bytes(bytes.to_vec(), &limits) else { return };
    let mut samples = 0;
    loop {
        match reader.next_block() {
            Ok(Some(block)) => {
                assert!(block.iter().all(|sample| sample.is_finite()));
                samples += block.len();
                assert!(samples <= 5 * 16_000, "more sound than the limit");
            }
            Ok(None) => break,
            Err(error) => {
                // A panic of the decoder is contained; here it must show.
                assert!(!error.to_string().contains("could not cope"), "{error}");
                break;
            }
        }
    }
});
