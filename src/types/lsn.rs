//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// Size of a WAL page in bytes (`XLOG_BLCKSZ`).
pub const WAL_PAGE_SIZE: u64 = 8192;
/// Header bytes of an ordinary WAL page.
pub const WAL_SHORT_HEADER: u64 = 24;
/// Header bytes of the first WAL page of a segment.
pub const WAL_LONG_HEADER: u64 = 40;
/// Segment size in bytes when nothing else is known.
pub const WAL_SEGMENT_SIZE: u64 = 16 << 20;

/// A byte position in the WAL stream. Text form `hi/lo` in hexadecimal, as PostgreSQL prints `pg_lsn`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const INVALID: Lsn = Lsn(0);
    pub const MAX: Lsn = Lsn(u64::MAX);

    pub fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Rounds up to the 8-byte alignment of record starts.
    pub fn align8(self) -> Lsn {
        Lsn(self.0.saturating_add(7) & !7)
    }

    /// The first position at or after `self` where a record can start: 8-aligned and past a page header.
    pub fn record_start(self, segment_size: u64) -> Lsn {
        let at = self.align8();
        let page = at.page_start();
        let header = if page.0.is_multiple_of(segment_size) { WAL_LONG_HEADER } else { WAL_SHORT_HEADER };
        at.max(Lsn(page.0 + header))
    }

    pub fn page_start(self) -> Lsn {
        Lsn(self.0 - self.0 % WAL_PAGE_SIZE)
    }

    pub fn page_offset(self) -> usize {
        (self.0 % WAL_PAGE_SIZE) as usize
    }

    pub fn segment_number(self, segment_size: u64) -> u64 {
        self.0 / segment_size
    }

    pub fn segment_offset(self, segment_size: u64) -> u64 {
        self.0 % segment_size
    }

    /// `None` on overflow, which only damaged input can cause.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    pub fn saturating_sub(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_sub(bytes))
    }

    /// Bytes between two positions, 0 when `earlier` is not earlier.
    pub fn distance_from(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Name of the WAL segment file that holds `segment_number`, as PostgreSQL names it.
pub fn segment_file_name(tli: u32, segment_number: u64, segment_size: u64) -> String {
    let per_id = 0x1_0000_0000 / segment_size;
    format!("{:08X}{:08X}{:08X}", tli, segment_number / per_id, segment_number % per_id)
}

/// Inverse of [`segment_file_name`]: (timeline id, segment number).
pub fn parse_segment_file_name(name: &str, segment_size: u64) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| u32::from_str_radix(name.get(range)?, 16).ok();
    let per_id = 0x1_0000_0000 / segment_size;
    let low = u64::from(part(16..24)?);
    (low < per_id).then_some(())?;
    Some((part(0..8)?, u64::from(part(8..16)?) * per_id + low))
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not `hi/lo` with one to eight hexadecimal digits on each side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an LSN: expected two hexadecimal numbers as in 0/16ABCDE0")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let bad = || ParseLsnError(text.to_string());
        let (hi, lo) = text.split_once('/').ok_or_else(bad)?;
        let part = |s: &str| {
            let valid = !s.is_empty() && s.len() <= 8 && s.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| u64::from_str_radix(s, 16).ok()).flatten()
        };
        Ok(Lsn(part(hi).ok_or_else(bad)? << 32 | part(lo).ok_or_else(bad)?))
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Lsn, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        for (text, value) in [("0/0", 0), ("0/16ABCDE0", 0x16AB_CDE0), ("A/B", 0xA_0000_000B), ("FFFFFFFF/FFFFFFFF", u64::MAX)] {
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn(value)), "{text}");
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in ["", "/", "0/", "/0", "0/1/2", "0/123456789", "x/0", "0/-1", "+1/0", "0 /1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn record_start_skips_page_headers() {
        let seg = WAL_SEGMENT_SIZE;
        for (at, want) in [
            (1, 40),
            (8, 40),
            (40, 40),
            (8192, 8216),
            (8185, 8216),
            (seg, seg + 40),
            (seg - 7, seg + 40),
            (seg + 40, seg + 40),
            (seg + 16, seg + 40),
            (8200, 8216),
            (8224, 8224),
        ] {
            assert_eq!(Lsn(at).record_start(seg), Lsn(want), "{at}");
        }
    }

    #[test]
    fn segment_names_round_trip() {
        for (tli, number, name) in
            [(1, 1, "000000010000000000000001"), (2, 256, "000000020000000100000000"), (1, 0x1234, "000000010000001200000034")]
        {
            assert_eq!(segment_file_name(tli, number, WAL_SEGMENT_SIZE), name);
            assert_eq!(parse_segment_file_name(name, WAL_SEGMENT_SIZE), Some((tli, number)));
        }
        assert_eq!(parse_segment_file_name("00000001000000000000FFFF", WAL_SEGMENT_SIZE), None);
        assert_eq!(parse_segment_file_name("00000001.history", WAL_SEGMENT_SIZE), None);
    }
}
