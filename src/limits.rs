//! Bounds of the system in one place, with the relations between them.

/// Records a read of flushed data replays at most; chains that would grow longer get an image.
pub const REPLAY_RECORDS_MAX: u32 = 512;
/// Frozen layers waiting for their flush before ingest waits.
pub const FROZEN_LAYERS_MAX: usize = 2;
/// Bytes that one batch of ingest may hold before it is committed.
pub const INGEST_BATCH_BYTES: usize = 1 << 20;
/// Blocks that one record may extend a relation by: 8 GiB. More is taken for damage.
pub const EXTEND_BLOCKS_MAX: u32 = 1 << 20;
/// Bytes of WAL read from the log at once.
pub const WAL_READ_BYTES: usize = 1 << 20;
/// Largest HTTP request body in bytes.
pub const HTTP_BODY_MAX: usize = 1 << 20;
/// Largest message a page service client may send, in bytes; requests are small.
pub const PAGE_SERVICE_MESSAGE_MAX: usize = 64 << 10;

const _: () = assert!(REPLAY_RECORDS_MAX > 0);
const _: () = assert!(INGEST_BATCH_BYTES < 1 << 30);
