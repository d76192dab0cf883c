//! A ZIP file written front to back, its entries stored as they are: sound hardly gets smaller. Where it
//! grows beyond 4 GiB or 65,534 entries its directory is that of ZIP64.

/// What the end of the file must name.
#[derive(Debug, Default)]
pub(super) struct Archive {
    directory: Vec<u8>,
    offset: u64,
    entries: u64,
}

/// APPNOTE 4.4.4: names in UTF-8.
const UTF8: u16 = 1 << 11;
/// APPNOTE 4.4.3: version 2.0, and 4.5 for ZIP64.
const VERSION: u16 = 20;
const VERSION_64: u16 = 45;
/// Fields with all bits set refer to those of ZIP64.
const ELSEWHERE: u32 = u32::MAX;
const ELSEWHERE_SHORT: u16 = u16::MAX;

impl Archive {
    /// The bytes of an entry, which is shorter than 4 GiB.
    pub(super) fn entry(&mut self, name: &str, content: &[u8]) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut common = Vec::with_capacity(22);
        // Stored, 1980-01-01 00:00: the time is in the name.
        for word in [UTF8, 0, 0, 0x21] {
            common.extend_from_slice(&u16::to_le_bytes(word));
        }
        common.extend_from_slice(&crc.sum().to_le_bytes());
        common.extend_from_slice(&(content.len() as u32).to_le_bytes());
        common.extend_from_slice(&(content.len() as u32).to_le_bytes());
        common.extend_from_slice(&(name.len() as u16).to_le_bytes());

        let near = u32::try_from(self.offset).ok().filter(|offset| *offset != ELSEWHERE);
        let mut far = Vec::new();
        if near.is_none() {
            // APPNOTE 4.5.3: the field that is too small, in full.
            far.extend_from_slice(b"\x01\0\x08\0");
            far.extend_from_slice(&self.offset.to_le_bytes());
        }
        let version = if near.is_none() { VERSION_64 } else { VERSION };
        self.directory.extend_from_slice(b"PK\x01\x02");
        self.directory.extend_from_slice(&version.to_le_bytes());
        self.directory.extend_from_slice(&version.to_le_bytes());
        self.directory.extend_from_slice(&common);
        self.directory.extend_from_slice(&(far.len() as u16).to_le_bytes());
        self.directory.extend_from_slice(&[0; 10]);
        self.directory.extend_from_slice(&near.unwrap_or(ELSEWHERE).to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.directory.extend_from_slice(&far);

        let mut entry = Vec::with_capacity(30 + name.len() + content.len());
        entry.extend_from_slice(b"PK\x03\x04");
        entry.extend_from_slice(&VERSION.to_le_bytes());
        entry.extend_from_slice(&common);
        entry.extend_from_slice(&[0, 0]);
        entry.extend_from_slice(name.as_bytes());
        entry.extend_from_slice(content);
        self.offset += entry.len() as u64;
        self.entries += 1;
        entry
    }

    /// The bytes that end the file.
    pub(super) fn end(self) -> Vec<u8> {
        let Self { directory: mut end, offset, entries } = self;
        let len = end.len() as u64;
        let short = |number: u64| u32::try_from(number).unwrap_or(ELSEWHERE);
        let count = u16::try_from(entries).unwrap_or(ELSEWHERE_SHORT);
        let far = [short(offset), short(len)].contains(&ELSEWHERE) || count == ELSEWHERE_SHORT;
        if far {
            end.extend_from_slice(b"PK\x06\x06");
            // Of what follows in this record.
            end.extend_from_slice(&44_u64.to_le_bytes());
            end.extend_from_slice(&VERSION_64.to_le_bytes());
            end.extend_from_slice(&VERSION_64.to_le_bytes());
            end.extend_from_slice(&[0; 8]);
            for number in [entries, entries, len, offset] {
                end.extend_from_slice(&number.to_le_bytes());
            }
            end.extend_from_slice(b"PK\x06\x07\0\0\0\0");
            end.extend_from_slice(&(offset + len).to_le_bytes());
            end.extend_from_slice(&1_u32.to_le_bytes());
        }
        end.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        end.extend_from_slice(&count.to_le_bytes());
        end.extend_from_slice(&count.to_le_bytes());
        end.extend_from_slice(&short(len).to_le_bytes());
        end.extend_from_slice(&short(offset).to_le_bytes());
        end.extend_from_slice(&[0, 0]);
        end
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::Archive;

    /// What Python's reader finds in a file with these bytes at `offset` and a hole before them: how
    /// many entries, and the content of the last one.
    fn read(bytes: &[u8], offset: u64) -> String {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("archive.zip");
        let file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        let script = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); n = z.namelist(); \
                      print(len(n), z.read(n[-1]).decode())";
        let read = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        String::from_utf8(read.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn no_number_of_entries_is_too_large() {
        for entries in [1, 65_534, 65_535, 65_536] {
            let mut archive = Archive::default();
            let mut bytes = Vec::new();
            for n in 1..=entries {
                bytes.extend(archive.entry(&format!("{n}.txt"), n.to_string().as_bytes()));
            }
            bytes.extend(archive.end());
            assert_eq!(read(&bytes, 0), format!("{entries} {entries}"));
        }
    }

    #[test]
    fn no_length_is_too_long() {
        for offset in [u64::from(u32::MAX) - 100, u64::from(u32::MAX), 5 << 30] {
            let mut archive = Archive { offset, ..Archive::default() };
            let mut bytes = archive.entry("near.txt", b"near");
            bytes.extend(archive.entry("far.txt", b"far"));
            bytes.extend(archive.end());
            assert_eq!(read(&bytes, offset), "2 far");
        }
    }
}
