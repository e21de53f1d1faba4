//! Small value types shared by every floor: positions, identifiers, keys.

pub mod det;
pub mod generation;
pub mod id;
pub mod key;
pub mod lsn;
pub mod rel;
pub mod timestamp;

pub use det::{HashMap, HashSet};
pub use generation::{AttachMode, Generation};
pub use id::{TenantId, TimelineId};
pub use key::Key;
pub use lsn::Lsn;
pub use rel::{Fork, RelTag, SlruKind};

/// Size of a PostgreSQL page in bytes (`BLCKSZ`), the only one supported.
pub const PAGE_SIZE: usize = 8192;

/// A page of zeros, which PostgreSQL takes for an empty one.
pub static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
