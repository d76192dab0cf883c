//! Read-only view of a FlatBuffers file that may hold anything: every access is checked, none
//! panics, and a wrong offset is a [`Malformed`] that says where.
//!
//! Format: <https://flatbuffers.dev/internals/>. All numbers little-endian. A table begins with a
//! signed offset back to its vtable; the vtable lists, per field, the offset from the table's
//! start, 0 for an absent field. Vectors begin with their length.

/// The file contradicts itself at this byte. The caller rejects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed at byte {at}: {what} is out of bounds")]
pub struct Malformed {
    /// Byte offset in the file.
    pub at: usize,
    /// What was to be read there.
    pub what: &'static str,
}

/// A table inside the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    file: &'a [u8],
    at: usize,
    vtable_at: usize,
    vtable_len: usize,
}

/// A vector inside the file, elements of `stride` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector<'a> {
    file: &'a [u8],
    at: usize,
    len: usize,
}

/// Longest text that is kept, in bytes: names are shown to people.
const MAX_TEXT: usize = 120;

fn bytes<const N: usize>(file: &[u8], at: usize, what: &'static str) -> Result<[u8; N], Malformed> {
    at.checked_add(N)
        .and_then(|end| file.get(at..end))
        .and_then(|slice| slice.try_into().ok())
        .ok_or(Malformed { at, what })
}

fn offset(file: &[u8], at: usize) -> Result<usize, Malformed> {
    let relative = u32::from_le_bytes(bytes(file, at, "an offset")?) as usize;
    at.checked_add(relative)
        .filter(|target| *target < file.len())
        .ok_or(Malformed { at, what: "the target of an offset" })
}

impl<'a> Table<'a> {
    /// The root table of a file.
    pub(super) fn root(file: &'a [u8]) -> Result<Self, Malformed> {
        Self::at(file, offset(file, 0)?)
    }

    fn at(file: &'a [u8], at: usize) -> Result<Self, Malformed> {
        let back = i32::from_le_bytes(bytes(file, at, "a table")?) as isize;
        let vtable_at = at
            .checked_add_signed(back.wrapping_neg())
            .ok_or(Malformed { at, what: "the vtable of a table" })?;
        let vtable_len = usize::from(u16::from_le_bytes(bytes(file, vtable_at, "a vtable")?));
        Ok(Self { file, at, vtable_at, vtable_len })
    }

    /// Where field `number` lies, `None` if it is absent.
    fn field(&self, number: usize) -> Result<Option<usize>, Malformed> {
        let slot = 4 + 2 * number;
        if slot + 2 > self.vtable_len {
            return Ok(None);
        }
        let relative =
            u16::from_le_bytes(bytes(self.file, self.vtable_at + slot, "a vtable entry")?);
        Ok((relative != 0).then(|| self.at.saturating_add(usize::from(relative))))
    }

    /// A signed byte.
    pub(super) fn i8(&self, number: usize, default: i8) -> Result<i8, Malformed> {
        match self.field(number)? {
            Some(at) => Ok(i8::from_le_bytes(bytes(self.file, at, "a byte")?)),
            None => Ok(default),
        }
    }

    /// A signed 32-bit number.
    pub(super) fn i32(&self, number: usize, default: i32) -> Result<i32, Malformed> {
        match self.field(number)? {
            Some(at) => Ok(i32::from_le_bytes(bytes(self.file, at, "a number")?)),
            None => Ok(default),
        }
    }

    /// An unsigned 32-bit number.
    pub(super) fn u32(&self, number: usize, default: u32) -> Result<u32, Malformed> {
        match self.field(number)? {
            Some(at) => Ok(u32::from_le_bytes(bytes(self.file, at, "a number")?)),
            None => Ok(default),
        }
    }

    /// An unsigned 64-bit number.
    pub(super) fn u64(&self, number: usize, default: u64) -> Result<u64, Malformed> {
        match self.field(number)? {
            Some(at) => Ok(u64::from_le_bytes(bytes(self.file, at, "a number")?)),
            None => Ok(default),
        }
    }

    /// A table.
    pub(super) fn table(&self, number: usize) -> Result<Option<Table<'a>>, Malformed> {
        match self.field(number)? {
            Some(at) => Ok(Some(Table::at(self.file, offset(self.file, at)?)?)),
            None => Ok(None),
        }
    }

    /// A vector whose elements have `stride` bytes; an absent one is empty.
    pub(super) fn vector(&self, number: usize, stride: usize) -> Result<Vector<'a>, Malformed> {
        let Some(field_at) = self.field(number)? else {
            return Ok(Vector::EMPTY);
        };
        let at = offset(self.file, field_at)?;
        let len = u32::from_le_bytes(bytes(self.file, at, "a vector's length")?) as usize;
        let start = at + 4;
        len.checked_mul(stride)
            .and_then(|size| start.checked_add(size))
            .filter(|end| *end <= self.file.len())
            .ok_or(Malformed { at, what: "the end of a vector" })?;
        Ok(Vector { file: self.file, at: start, len })
    }

    /// A text, its control characters and faulty UTF-8 replaced; an absent one is empty.
    pub(super) fn text(&self, number: usize) -> Result<String, Malformed> {
        let raw = self.vector(number, 1)?.bytes()?;
        let shown = raw.get(..MAX_TEXT).unwrap_or(raw);
        Ok(String::from_utf8_lossy(shown).escape_debug().to_string())
    }
}

impl<'a> Vector<'a> {
    /// A vector without elements.
    pub(super) const EMPTY: Self = Self { file: &[], at: 0, len: 0 };

    /// The complaint that this vector is not what it should be.
    pub(super) fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Element `i` of a vector of tables.
    pub(super) fn table(&self, i: usize) -> Result<Table<'a>, Malformed> {
        let at = self.element(i, 4)?;
        Table::at(self.file, offset(self.file, at)?)
    }

    /// A vector of bytes, as it lies in the file.
    pub(super) fn bytes(&self) -> Result<&'a [u8], Malformed> {
        self.file
            .get(self.at..self.at.saturating_add(self.len))
            .ok_or(Malformed { at: self.at, what: "a vector" })
    }

    /// A vector of signed 32-bit numbers.
    pub(super) fn i32s(&self) -> Result<Vec<i32>, Malformed> {
        self.numbers("a number", i32::from_le_bytes)
    }

    /// A vector of signed 64-bit numbers.
    pub(super) fn i64s(&self) -> Result<Vec<i64>, Malformed> {
        self.numbers("a number", i64::from_le_bytes)
    }

    /// A vector of 32-bit floats.
    pub(super) fn f32s(&self) -> Result<Vec<f32>, Malformed> {
        self.numbers("a number", f32::from_le_bytes)
    }

    fn numbers<T, const N: usize>(
        &self,
        what: &'static str,
        read: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Malformed> {
        (0..self.len).map(|i| Ok(read(bytes(self.file, self.element(i, N)?, what)?))).collect()
    }

    fn element(&self, i: usize, stride: usize) -> Result<usize, Malformed> {
        (i < self.len)
            .then(|| i.checked_mul(stride).and_then(|skip| self.at.checked_add(skip)))
            .flatten()
            .ok_or(Malformed { at: self.at, what: "an element of a vector" })
    }
}
