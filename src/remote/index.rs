//! `index_part.json`: what a timeline consists of. A timeline exists if and only if its index does.

use crate::layer::LayerName;
use crate::pg::version::PgVersion;
use crate::types::{Generation, Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the content. Readers accept fields they do not know.
pub const INDEX_VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerMeta {
    pub file_size: u64,
    /// Of the node that wrote the layer; part of the object's name.
    pub generation: Generation,
}

/// A past switch of PostgreSQL's timeline: records at and above `begin` belong to the next entry's TLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TliSwitch {
    pub tli: u32,
    /// Where this TLI ends and the next one begins.
    pub end: Lsn,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPart {
    pub version: u32,
    /// By layer name, without generation.
    pub layer_metadata: BTreeMap<String, LayerMeta>,
    pub disk_consistent_lsn: Lsn,
    /// Start of the last record at or below `disk_consistent_lsn`, if known.
    pub prev_record_lsn: Option<Lsn>,
    pub ancestor_timeline: Option<TimelineId>,
    pub ancestor_lsn: Lsn,
    pub latest_gc_cutoff_lsn: Lsn,
    pub initdb_lsn: Lsn,
    pub pg_version: PgVersion,
    /// PostgreSQL's system identifier of the WAL that is followed.
    pub system_identifier: u64,
    pub wal_segment_size: u64,
    /// Data checksums or `wal_log_hints` are on.
    pub hint_bits_logged: bool,
    /// PostgreSQL's TLI of the newest WAL.
    pub tli: u32,
    pub tli_history: Vec<TliSwitch>,
    /// When its deletion began, RFC 3339: whoever finds this goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<String>,
    /// Primary whose WAL is followed, as a libpq connection string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_source: Option<String>,
}

/// The bytes are not a usable index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index is not valid JSON of the expected form: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the index has version {0}, this program reads up to {INDEX_VERSION}")]
    Version(u32),
    #[error("the index names \"{0}\", which is not a layer")]
    Layer(String),
    #[error("disk_consistent_lsn {0} is not a multiple of 8")]
    Unaligned(Lsn),
    #[error("the index has neither layers nor an ancestor")]
    Empty,
}

impl IndexPart {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("an index is plain data")
    }

    pub fn decode(bytes: &[u8]) -> Result<IndexPart, IndexError> {
        let index: IndexPart = serde_json::from_slice(bytes)?;
        if index.version > INDEX_VERSION {
            return Err(IndexError::Version(index.version));
        }
        if !index.disk_consistent_lsn.0.is_multiple_of(8) {
            return Err(IndexError::Unaligned(index.disk_consistent_lsn));
        }
        // A name in another spelling would be the same layer twice.
        let is_canonical = |name: &String| name.parse::<LayerName>().is_ok_and(|layer| layer.text() == *name);
        if let Some(bad) = index.layer_metadata.keys().find(|name| !is_canonical(name)) {
            return Err(IndexError::Layer(bad.clone()));
        }
        if index.layer_metadata.is_empty() && index.ancestor_timeline.is_none() {
            return Err(IndexError::Empty);
        }
        Ok(index)
    }

    pub fn layers(&self) -> impl Iterator<Item = (LayerName, LayerMeta)> + '_ {
        self.layer_metadata.iter().filter_map(|(name, meta)| Some((name.parse().ok()?, *meta)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The index of a branch without layers.
    pub fn of_a_branch(disk_consistent: u64) -> IndexPart {
        IndexPart {
            version: INDEX_VERSION,
            layer_metadata: BTreeMap::new(),
            disk_consistent_lsn: Lsn(disk_consistent),
            prev_record_lsn: None,
            ancestor_timeline: Some(TimelineId([3; 16])),
            ancestor_lsn: Lsn(8),
            latest_gc_cutoff_lsn: Lsn(8),
            initdb_lsn: Lsn(8),
            pg_version: PgVersion::V15,
            system_identifier: 7,
            wal_segment_size: 16 << 20,
            hint_bits_logged: true,
            tli: 1,
            tli_history: Vec::new(),
            deleted_at: None,
            wal_source: None,
        }
    }

    #[test]
    fn round_trip_and_refusals() {
        let index = of_a_branch(0x18);
        assert_eq!(IndexPart::decode(&index.encode()).unwrap(), index);
        let refused = |change: fn(&mut IndexPart)| {
            let mut bad = index.clone();
            change(&mut bad);
            IndexPart::decode(&bad.encode()).is_err()
        };
        assert!(refused(|i| i.version = 2));
        assert!(refused(|i| i.disk_consistent_lsn = Lsn(9)));
        assert!(refused(|i| i.ancestor_timeline = None));
        assert!(refused(|i| _ = i.layer_metadata.insert("x".into(), LayerMeta { file_size: 1, generation: Generation(1) })));
        assert!(IndexPart::decode(b"{").is_err());
        // One layer under two names would be in the layer map twice.
        let name = LayerName::image(crate::types::Key::MIN..crate::types::Key::MAX, Lsn(0xAB)).text();
        let meta = LayerMeta { file_size: 1, generation: Generation(1) };
        let named = |name: String| IndexPart { layer_metadata: [(name, meta)].into(), ..index.clone() }.encode();
        assert!(IndexPart::decode(&named(name.clone())).is_ok());
        assert!(matches!(IndexPart::decode(&named(name.to_lowercase())), Err(IndexError::Layer(_))));
    }
}
