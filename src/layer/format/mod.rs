//! Byte format of layer files, pure. See docs/formats/layer.md.
//!
//! ```text
//! data block … | index block … | top index block | footer (128 bytes)
//! ```
//! Blocks are compressed and checksummed one by one, so each can be read alone by range, locally or from remote storage.
//! Equal input gives equal bytes.

pub mod block;
pub mod footer;
pub mod index;

/// Why bytes of a layer file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("block at {offset}: checksum is {actual:016x}, the block says {expected:016x}")]
    Checksum { offset: u64, expected: u64, actual: u64 },
    #[error("block at {offset}: {what}")]
    Block { offset: u64, what: &'static str },
    #[error("footer: {0}")]
    Footer(&'static str),
}
