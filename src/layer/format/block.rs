//! A block: header, then its bytes, compressed if that makes them smaller.
//!
//! | offset | size | name | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 8 | checksum | xxh3-64, with the block's offset in the file as its seed, over everything behind it, stored bytes included |
//! | 8 | 4 | stored_len | bytes behind the header |
//! | 12 | 4 | raw_len | bytes after decompression |
//! | 16 | 1 | codec | 0 stored as is, 1 zstd |
//! | 17 | 1 | kind | 0 data, 1 index, 2 top index |
//! | 18 | 6 | zero | |
//!
//! Little-endian.

use super::FormatError;

/// Size of the header in bytes.
pub const BLOCK_HEADER: usize = 24;
/// A raw block is never larger than this: one value of the largest size a WAL record may have, and some.
pub const RAW_LEN_MAX: usize = 1100 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    Data = 0,
    Index = 1,
    Top = 2,
}

const CODEC_NONE: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Level 1: two thirds of the size of level 3's speed loss are not worth it on page data.
const ZSTD_LEVEL: i32 = 1;

/// Compresses and frames blocks; keeps its working memory.
pub struct BlockEncoder {
    compressor: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

impl BlockEncoder {
    pub fn new() -> BlockEncoder {
        let compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("zstd level 1 exists");
        BlockEncoder { compressor, scratch: Vec::new() }
    }

    /// Appends the block to `out`, to be written at `offset` of its file; gives its whole length.
    pub fn encode(&mut self, kind: BlockKind, offset: u64, raw: &[u8], out: &mut Vec<u8>) -> u32 {
        assert!(raw.len() <= RAW_LEN_MAX, "a block of {} bytes", raw.len());
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let smaller = self.compressor.compress_to_buffer(raw, &mut self.scratch).is_ok_and(|len| len < raw.len());
        let (codec, stored) = if smaller { (CODEC_ZSTD, self.scratch.as_slice()) } else { (CODEC_NONE, raw) };
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        out.extend_from_slice(&[codec, kind as u8, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(stored);
        let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&out[start + 8..], offset);
        out[start..start + 8].copy_from_slice(&checksum.to_le_bytes());
        (out.len() - start) as u32
    }
}

impl Default for BlockEncoder {
    fn default() -> BlockEncoder {
        BlockEncoder::new()
    }
}

/// Unpacks blocks; keeps its working memory, which costs more to make than a block takes to unpack.
pub struct BlockDecoder {
    decompressor: zstd::bulk::Decompressor<'static>,
    input: Vec<u8>,
    /// Only for the planted bug `checksum-ignored`.
    pub ignores_checksums: bool,
}

/// An input buffer that grew beyond this is not kept.
const INPUT_KEEP: usize = 1 << 20;

impl BlockDecoder {
    pub fn new() -> BlockDecoder {
        BlockDecoder {
            decompressor: zstd::bulk::Decompressor::new().expect("memory for a zstd context"),
            input: Vec::new(),
            ignores_checksums: false,
        }
    }

    /// A buffer of `len` bytes to read a block into, whatever they are now.
    pub fn lend_input(&mut self, len: usize) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.input);
        input.resize(len, 0);
        input
    }

    pub fn give_back(&mut self, input: Vec<u8>) {
        if input.capacity() <= INPUT_KEEP {
            self.input = input;
        }
    }

    /// Checks and unpacks a block read at `offset` of its file.
    ///
    /// Errors: anything that does not add up; the bytes may come from a damaged disk.
    pub fn decode(&mut self, kind: BlockKind, offset: u64, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
        let bad = |what| FormatError::Block { offset, what };
        let (header, stored) = bytes.split_first_chunk::<BLOCK_HEADER>().ok_or_else(|| bad("shorter than a header"))?;
        let expected = u64::from_le_bytes([header[0], header[1], header[2], header[3], header[4], header[5], header[6], header[7]]);
        let actual = xxhash_rust::xxh3::xxh3_64_with_seed(bytes.get(8..).unwrap_or_default(), offset);
        if actual != expected && !self.ignores_checksums {
            return Err(FormatError::Checksum { offset, expected, actual });
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (stored_len, raw_len) = (word(8), word(12));
        if stored.len() != stored_len || raw_len > RAW_LEN_MAX {
            return Err(bad("lengths do not fit"));
        }
        if header[17] != kind as u8 {
            return Err(bad("is of another kind than its place says"));
        }
        match header[16] {
            CODEC_NONE if raw_len == stored_len => Ok(stored.to_vec()),
            CODEC_ZSTD => {
                let raw = self.decompressor.decompress(stored, raw_len).map_err(|_| bad("does not decompress"))?;
                if raw.len() == raw_len { Ok(raw) } else { Err(bad("decompresses to another length")) }
            }
            _ => Err(bad("unknown codec")),
        }
    }
}

impl Default for BlockDecoder {
    fn default() -> BlockDecoder {
        BlockDecoder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flipped_byte_is_noticed() {
        let (mut encoder, mut decoder) = (BlockEncoder::new(), BlockDecoder::new());
        for raw in [vec![], vec![7; 10_000], (0..300u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()] {
            let mut out = vec![1, 2, 3];
            let len = encoder.encode(BlockKind::Data, 0, &raw, &mut out);
            let block = out.split_off(3);
            assert_eq!(block.len(), len as usize);
            assert_eq!(decoder.decode(BlockKind::Data, 0, &block).as_ref(), Ok(&raw));
            assert!(decoder.decode(BlockKind::Index, 0, &block).is_err());
            assert!(matches!(decoder.decode(BlockKind::Data, 512, &block), Err(FormatError::Checksum { .. })), "from another place");
            for i in 0..block.len() {
                let mut bad = block.clone();
                bad[i] ^= 0x10;
                assert!(decoder.decode(BlockKind::Data, 0, &bad).is_err(), "byte {i}");
                assert!(decoder.decode(BlockKind::Data, 0, &block[..i]).is_err(), "cut at {i}");
            }
        }
    }
}
