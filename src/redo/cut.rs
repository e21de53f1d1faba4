//! A cursor over a record's data: little-endian numbers and slices, every step checked.

use super::StepError;

#[derive(Clone, Copy)]
pub(super) struct Cut<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cut<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Cut<'a> {
        Cut { rest: bytes, what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StepError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(StepError::Short(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, StepError> {
        self.array::<1>().map(|b| b[0])
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, StepError> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, StepError> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self) -> Result<u64, StepError> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], StepError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(StepError::Short(self.what))?;
        self.rest = rest;
        Ok(head)
    }

    /// `count` u16 numbers, as bytes: see [`numbers`].
    pub fn take_numbers(&mut self, count: u16) -> Result<&'a [u8], StepError> {
        self.take(usize::from(count) * 2)
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// The u16 numbers that `bytes` hold.
pub(super) fn numbers(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + '_ {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}
