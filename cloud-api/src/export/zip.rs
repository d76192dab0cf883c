//! A ZIP file written front to back, its entries stored as they are: sound hardly gets smaller.

/// What the end of the file must name.
#[derive(Debug, Default)]
pub(super) struct Archive {
    directory: Vec<u8>,
    offset: u64,
    entries: u16,
}

/// APPNOTE 4.4.4: names in UTF-8.
const UTF8: u16 = 1 << 11;
/// Without ZIP64 the directory begins below 4 GiB, and there are fewer than 65,536 entries.
const MAX_OFFSET: u64 = u32::MAX as u64;

impl Archive {
    /// The bytes of an entry; empty, and the entry left out, where the file would grow too long.
    pub(super) fn entry(&mut self, name: &str, content: &[u8]) -> Vec<u8> {
        let whole = self.offset + 64 + (name.len() + content.len()) as u64;
        if whole > MAX_OFFSET || self.entries == u16::MAX {
            return Vec::new();
        }
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut common = Vec::with_capacity(26);
        // Version 2.0, stored, 1980-01-01 00:00: the time is in the name.
        for word in [20, UTF8, 0, 0, 0x21] {
            common.extend_from_slice(&u16::to_le_bytes(word));
        }
        common.extend_from_slice(&crc.sum().to_le_bytes());
        common.extend_from_slice(&(content.len() as u32).to_le_bytes());
        common.extend_from_slice(&(content.len() as u32).to_le_bytes());
        common.extend_from_slice(&(name.len() as u16).to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        self.directory.extend_from_slice(b"PK\x01\x02\x14\0");
        self.directory.extend_from_slice(&common);
        self.directory.extend_from_slice(&[0; 10]);
        self.directory.extend_from_slice(&(self.offset as u32).to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        let mut entry = Vec::with_capacity(30 + name.len() + content.len());
        entry.extend_from_slice(b"PK\x03\x04");
        entry.extend_from_slice(&common);
        entry.extend_from_slice(name.as_bytes());
        entry.extend_from_slice(content);
        self.offset += entry.len() as u64;
        self.entries += 1;
        entry
    }

    /// The bytes that end the file.
    pub(super) fn end(self) -> Vec<u8> {
        let mut end = self.directory;
        let len = end.len() as u32;
        end.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        end.extend_from_slice(&self.entries.to_le_bytes());
        end.extend_from_slice(&self.entries.to_le_bytes());
        end.extend_from_slice(&len.to_le_bytes());
        end.extend_from_slice(&(self.offset as u32).to_le_bytes());
        end.extend_from_slice(&[0, 0]);
        end
    }
}
