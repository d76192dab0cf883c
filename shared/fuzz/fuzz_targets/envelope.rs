//! Whatever arrives on `…/up`: no panic, and what is accepted is written back to the same bytes.

#![no_main]

use ecosight_shared::{Envelope, MAX_ENVELOPE_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = Envelope::decode(bytes) {
        let mut buffer = [0; MAX_ENVELOPE_LEN];
        let again = envelope.encode(&mut buffer).expect("a decoded envelope fits");
        assert_eq!(Envelope::decode(again), Ok(envelope));
    }
});
