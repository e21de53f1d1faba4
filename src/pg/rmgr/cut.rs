//! Takes little-endian fields off the front of a byte slice.

use super::MalformedRecord;

pub struct Cut<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cut<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Cut<'a> {
        Cut { rest: bytes, what }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], MalformedRecord> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(MalformedRecord(self.what))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedRecord> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(MalformedRecord(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, MalformedRecord> {
        self.array::<1>().map(|b| b[0])
    }

    pub fn u32(&mut self) -> Result<u32, MalformedRecord> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, MalformedRecord> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count that is stored as a signed number.
    pub fn count(&mut self) -> Result<usize, MalformedRecord> {
        let count = i32::from_le_bytes(self.array()?);
        usize::try_from(count).map_err(|_| MalformedRecord(self.what))
    }

    /// As many items as the count says, each of which takes at least `item_len` bytes: a wild count costs no memory.
    pub fn items<T>(
        &mut self,
        count: usize,
        item_len: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, MalformedRecord>,
    ) -> Result<Vec<T>, MalformedRecord> {
        if count.checked_mul(item_len).is_none_or(|bytes| bytes > self.rest.len()) {
            return Err(MalformedRecord(self.what));
        }
        (0..count).map(|_| item(self)).collect()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
