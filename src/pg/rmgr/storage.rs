//! Storage manager records: files of relations come, and get shorter.

use super::MalformedRecord;
use super::cut::Cut;
use crate::types::{Fork, RelTag};

pub const CREATE: u8 = 0x10;
pub const TRUNCATE: u8 = 0x20;

/// TRUNCATE flags.
pub const TRUNCATE_HEAP: u32 = 1;
pub const TRUNCATE_VM: u32 = 2;
pub const TRUNCATE_FSM: u32 = 4;

pub fn parse_create(main: &[u8]) -> Result<RelTag, MalformedRecord> {
    const WHAT: &str = "storage create";
    let mut cut = Cut::new(main, WHAT);
    let (spc, db, rel) = (cut.u32()?, cut.u32()?, cut.u32()?);
    let fork = u8::try_from(cut.u32()?).ok().and_then(Fork::from_number).ok_or(MalformedRecord(WHAT))?;
    Ok(RelTag { spc, db, rel, fork })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate {
    /// Blocks of the heap that stay.
    pub blocks: u32,
    /// Main fork.
    pub rel: RelTag,
    pub flags: u32,
}

pub fn parse_truncate(main: &[u8]) -> Result<Truncate, MalformedRecord> {
    let mut cut = Cut::new(main, "storage truncate");
    let blocks = cut.u32()?;
    let rel = RelTag { spc: cut.u32()?, db: cut.u32()?, rel: cut.u32()?, fork: Fork::Main };
    Ok(Truncate { blocks, rel, flags: cut.u32()? })
}
