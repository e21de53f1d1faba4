//! Encodings of the directory values: sorted lists with a count, integers big-endian.

use crate::types::Fork;
use std::collections::{BTreeMap, BTreeSet};

/// The bytes are not a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedDirectory;

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedDirectory> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(MalformedDirectory)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, MalformedDirectory> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads the count and that many items; nothing may be left.
    fn list<T>(mut self, mut item: impl FnMut(&mut Self) -> Result<T, MalformedDirectory>) -> Result<Vec<T>, MalformedDirectory> {
        let count = self.u32()?;
        let items = (0..count).map(|_| item(&mut self)).collect::<Result<Vec<T>, _>>()?;
        if self.0.is_empty() { Ok(items) } else { Err(MalformedDirectory) }
    }
}

fn list(count: usize, items: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = (count as u32).to_be_bytes().to_vec();
    items.for_each(|item| out.extend_from_slice(&item));
    out
}

/// (tablespace, database) -> whether its relation map and version file exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DbDir(pub BTreeMap<(u32, u32), bool>);

impl DbDir {
    pub fn encode(&self) -> Vec<u8> {
        let item = |((spc, db), files): (&(u32, u32), &bool)| [&spc.to_be_bytes()[..], &db.to_be_bytes(), &[u8::from(*files)]].concat();
        list(self.0.len(), self.0.iter().map(item))
    }

    pub fn decode(bytes: &[u8]) -> Result<DbDir, MalformedDirectory> {
        let item = |r: &mut Reader<'_>| Ok(((r.u32()?, r.u32()?), r.array::<1>()?[0] != 0));
        Ok(DbDir(Reader(bytes).list(item)?.into_iter().collect()))
    }
}

/// Relation forks of one bucket of a database directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelDir(pub BTreeSet<(u32, Fork)>);

impl RelDir {
    pub fn encode(&self) -> Vec<u8> {
        let item = |(rel, fork): &(u32, Fork)| [&rel.to_be_bytes()[..], &[*fork as u8]].concat();
        list(self.0.len(), self.0.iter().map(item))
    }

    pub fn decode(bytes: &[u8]) -> Result<RelDir, MalformedDirectory> {
        let item = |r: &mut Reader<'_>| Ok((r.u32()?, Fork::from_number(r.array::<1>()?[0]).ok_or(MalformedDirectory)?));
        Ok(RelDir(Reader(bytes).list(item)?.into_iter().collect()))
    }
}

/// Segment numbers of an SLRU area.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlruDir(pub BTreeSet<u32>);

impl SlruDir {
    pub fn encode(&self) -> Vec<u8> {
        list(self.0.len(), self.0.iter().map(|segment| segment.to_be_bytes().to_vec()))
    }

    pub fn decode(bytes: &[u8]) -> Result<SlruDir, MalformedDirectory> {
        Ok(SlruDir(Reader(bytes).list(Reader::u32)?.into_iter().collect()))
    }
}

/// Transactions that are prepared and not finished.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TwoPhaseDir(pub BTreeSet<u64>);

impl TwoPhaseDir {
    pub fn encode(&self) -> Vec<u8> {
        list(self.0.len(), self.0.iter().map(|xid| xid.to_be_bytes().to_vec()))
    }

    pub fn decode(bytes: &[u8]) -> Result<TwoPhaseDir, MalformedDirectory> {
        Ok(TwoPhaseDir(Reader(bytes).list(|r| r.array().map(u64::from_be_bytes))?.into_iter().collect()))
    }
}

/// Tablespaces that users created: OID -> directory on the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablespaceDir(pub BTreeMap<u32, String>);

impl TablespaceDir {
    pub fn encode(&self) -> Vec<u8> {
        let item = |(oid, path): (&u32, &String)| [&oid.to_be_bytes()[..], &(path.len() as u32).to_be_bytes(), path.as_bytes()].concat();
        list(self.0.len(), self.0.iter().map(item))
    }

    pub fn decode(bytes: &[u8]) -> Result<TablespaceDir, MalformedDirectory> {
        let item = |r: &mut Reader<'_>| {
            let (oid, len) = (r.u32()?, r.u32()? as usize);
            let (path, rest) = r.0.split_at_checked(len).ok_or(MalformedDirectory)?;
            let path = std::str::from_utf8(path).map_err(|_| MalformedDirectory)?.to_string();
            r.0 = rest;
            Ok((oid, path))
        };
        Ok(TablespaceDir(Reader(bytes).list(item)?.into_iter().collect()))
    }
}

/// Relation and SLRU segment sizes in blocks: 4 bytes little-endian.
pub fn decode_size(bytes: &[u8]) -> Result<u32, MalformedDirectory> {
    bytes.try_into().map(u32::from_le_bytes).map_err(|_| MalformedDirectory)
}

pub fn encode_size(blocks: u32) -> [u8; 4] {
    blocks.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_cut_input() {
        let db = DbDir([((1663, 5), true), ((1664, 0), false)].into());
        let rel = RelDir([(16384, Fork::Main), (16384, Fork::Vm)].into());
        let slru = SlruDir([0, 7].into());
        let two_phase = TwoPhaseDir([1 << 40, 3].into());
        let spaces = TablespaceDir([(70_000, "/srv/fast".to_string())].into());
        assert_eq!(DbDir::decode(&db.encode()), Ok(db.clone()));
        assert_eq!(RelDir::decode(&rel.encode()), Ok(rel.clone()));
        assert_eq!(SlruDir::decode(&slru.encode()), Ok(slru.clone()));
        assert_eq!(TwoPhaseDir::decode(&two_phase.encode()), Ok(two_phase.clone()));
        assert_eq!(TablespaceDir::decode(&spaces.encode()), Ok(spaces.clone()));
        assert_eq!(decode_size(&encode_size(9)), Ok(9));
        let all_cuts_fail = |bytes: Vec<u8>, fails: &dyn Fn(&[u8]) -> bool| (0..bytes.len()).all(|cut| fails(&bytes[..cut]));
        assert!(all_cuts_fail(db.encode(), &|b| DbDir::decode(b).is_err()));
        assert!(all_cuts_fail(rel.encode(), &|b| RelDir::decode(b).is_err()));
        assert!(all_cuts_fail(slru.encode(), &|b| SlruDir::decode(b).is_err()));
        assert!(all_cuts_fail(two_phase.encode(), &|b| TwoPhaseDir::decode(b).is_err()));
        assert!(all_cuts_fail(spaces.encode(), &|b| TablespaceDir::decode(b).is_err()));
    }
}
