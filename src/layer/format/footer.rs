//! The last 128 bytes of a layer file.
//!
//! | offset | size | name |
//! | --- | --- | --- |
//! | 0 | 8 | magic `palimLYR` |
//! | 8 | 2 | format version (1) |
//! | 10 | 1 | kind: 0 delta, 1 image |
//! | 11 | 18 + 18 | key range |
//! | 47 | 8 + 8 | LSN range |
//! | 63 | 8 | top index block: offset |
//! | 71 | 4 | top index block: length |
//! | 75 | 8 | number of values |
//! | 83 | 8 | bytes of values before compression |
//! | 91 | 29 | zero |
//! | 120 | 8 | xxh3-64 over the bytes before |
//!
//! Numbers big-endian.

use super::FormatError;
use crate::layer::name::{LayerKind, LayerName};
use crate::types::key::KEY_LEN;
use crate::types::{Key, Lsn};

/// Size in bytes.
pub const FOOTER: usize = 128;
const MAGIC: &[u8; 8] = b"palimLYR";
const VERSION: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub name: LayerName,
    pub top_offset: u64,
    pub top_len: u32,
    pub value_count: u64,
    pub value_bytes: u64,
}

impl Footer {
    pub fn encode(&self) -> [u8; FOOTER] {
        let mut out = Vec::with_capacity(FOOTER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.push(u8::from(self.name.kind == LayerKind::Image));
        out.extend_from_slice(&self.name.keys.start.to_bytes());
        out.extend_from_slice(&self.name.keys.end.to_bytes());
        for number in [self.name.lsns.start.0, self.name.lsns.end.0, self.top_offset] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.top_len.to_be_bytes());
        out.extend_from_slice(&self.value_count.to_be_bytes());
        out.extend_from_slice(&self.value_bytes.to_be_bytes());
        out.resize(FOOTER - 8, 0);
        let checksum = xxhash_rust::xxh3::xxh3_64(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        out.try_into().expect("the fields fill the footer")
    }

    pub fn decode(bytes: &[u8; FOOTER]) -> Result<Footer, FormatError> {
        let (body, checksum) = bytes.split_at(FOOTER - 8);
        if xxhash_rust::xxh3::xxh3_64(body).to_be_bytes() != checksum {
            return Err(FormatError::Footer("the checksum differs"));
        }
        if body[..8] != *MAGIC {
            return Err(FormatError::Footer("this is not a layer file"));
        }
        if body[8..10] != VERSION.to_be_bytes() {
            return Err(FormatError::Footer("the format version is not 1"));
        }
        let number = |at: usize| body[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let key = |at: usize| body[at..].first_chunk::<KEY_LEN>().map_or(Key::MIN, Key::from_bytes);
        let kind = if body[10] == 0 { LayerKind::Delta } else { LayerKind::Image };
        let name = LayerName { kind, keys: key(11)..key(29), lsns: Lsn(number(47))..Lsn(number(55)) };
        Ok(Footer { name, top_offset: number(63), top_len: (number(71) >> 32) as u32, value_count: number(75), value_bytes: number(83) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let name = LayerName::delta(Key::MIN..Key::CHECKPOINT, Lsn(8)..Lsn(1 << 40));
        let footer = Footer { name, top_offset: 77, top_len: 55, value_count: 3, value_bytes: 1 << 33 };
        let bytes = footer.encode();
        assert_eq!(Footer::decode(&bytes), Ok(footer));
        for i in 0..FOOTER {
            let mut bad = bytes;
            bad[i] ^= 1;
            assert!(Footer::decode(&bad).is_err(), "byte {i}");
        }
    }
}
