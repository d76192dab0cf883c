//! Mends a FLAC's header where encoders get it wrong.
//!
//! STREAMINFO's smallest block size shall leave out the last block. Some encoders count it, and a
//! strict decoder then takes a stream of fixed blocks for one of varying blocks and finds no frame
//! in it.

use std::io::{self, Read, Seek, SeekFrom};

/// `fLaC`, a block header, and the two block sizes of STREAMINFO.
const START_BYTES: usize = 12;
const MAX_BLOCKS: usize = 256;

/// The first bytes of the stream as they should be, where they need mending. What is no FLAC is
/// left to the decoder to refuse.
pub(super) fn mended_start(source: &mut (impl Read + Seek)) -> io::Result<Option<Vec<u8>>> {
    let mut start = [0; START_BYTES];
    source.seek(SeekFrom::Start(0))?;
    if source.read_exact(&mut start).is_err() {
        return Ok(None);
    }
    let [_, _, _, _, _, _, _, _, least @ .., _, _] = start;
    let [.., most_high, most_low] = start;
    if least == [most_high, most_low] {
        return Ok(None);
    }
    let mut at = 4;
    for _ in 0..MAX_BLOCKS {
        source.seek(SeekFrom::Start(at))?;
        let mut head = [0; 4];
        if source.read_exact(&mut head).is_err() {
            return Ok(None);
        }
        let [kind, size @ ..] = head;
        at += 4 + size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
        if kind & 0x80 != 0 {
            break;
        }
    }
    // A frame begins with 14 bits of sync, a zero, and a bit that says "varying blocks".
    let mut sync = [0; 2];
    source.seek(SeekFrom::Start(at))?;
    if source.read_exact(&mut sync).is_err() || sync != [0xff, 0xf8] {
        return Ok(None);
    }
    start[8..10].copy_from_slice(&[most_high, most_low]);
    Ok(Some(start.to_vec()))
}
