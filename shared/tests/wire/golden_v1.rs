//! Bytes of envelope version 1 as stations in the field send them. Never edited: a change that
//! breaks this file needs a version of its own.

use ecosight_shared::{Envelope, MAX_ENVELOPE_LEN};

use crate::samples;

const ALERT: &str = "ec510101018f4d7e112273448566778899aabbcc00000007000f4240000640b5eecfe2400203fae10201deadbeef1ca86a1a";
const DETECTION: &str = "ec510102018f4d7e112273448566778899aabbcc00000007000f4240000640b5eecfe240020199c82cc07b71db8d402012f8f62c450867756e5f73686f74deadbeef0000403fa00bc007030000fcc1000051c203ff000c00011111111111111111111111111111111111111111111111111111111111111111a0fe0a904e00dd9940a2";
const TELEMETRY: &str = "ec510103018f4d7e112273448566778899aabbcc00000007000f4240000640b5eecfe24002000100deadbeef80a305a0fe0abc1ea846a001010c4b0002f855016d000042c2018128fade";
const RECEIPT: &str = "ec510104018f4d7e112273448566778899aabbcc0000000000000000000640b5eecfe24002020601900307030366a9e676";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

#[test]
fn version_1_is_written_and_read_as_ever() {
    for (envelope, golden) in samples::all().into_iter().zip([ALERT, DETECTION, TELEMETRY, RECEIPT])
    {
        let mut buffer = [0; MAX_ENVELOPE_LEN];
        assert_eq!(hex(envelope.encode(&mut buffer).expect("fits")), golden);
        assert_eq!(Envelope::decode(&unhex(golden)), Ok(envelope));
    }
}
