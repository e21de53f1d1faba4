//! What ingest knows of the cluster: loaded at the start or when first needed, kept up to date by every record.

use super::IngestError;
use crate::pg::control::ControlFile;
use crate::timeline::Timeline;
use crate::timeline::directory::{DbDir, RelDir, SlruDir, TablespaceDir, TwoPhaseDir};
use crate::types::{HashMap, Key, Lsn, RelTag, SlruKind};

/// Relation sizes kept before the cache starts anew.
const SIZES_MAX: usize = 1 << 19;

pub struct Known {
    pub databases: DbDir,
    /// Buckets of relation directories that were needed so far.
    pub relations: HashMap<(u32, u32, u32), RelDir>,
    /// Size in blocks, `None` for a fork that does not exist.
    pub sizes: HashMap<RelTag, Option<u32>>,
    /// The last relation looked up: records come in runs.
    pub last_size: Option<(RelTag, u32)>,
    pub slru: [SlruDir; 4],
    /// (kind, segment) -> pages
    pub slru_sizes: HashMap<(SlruKind, u32), u32>,
    pub two_phase: TwoPhaseDir,
    pub tablespaces: TablespaceDir,
    pub control: ControlFile,
}

impl Known {
    pub async fn load(timeline: &Timeline, lsn: Lsn) -> Result<Known, IngestError> {
        let mut slru: [SlruDir; 4] = Default::default();
        for kind in SlruKind::ALL {
            slru[kind as usize] = timeline.slru_segments(kind, lsn).await?;
        }
        Ok(Known {
            databases: timeline.db_dir(lsn).await?,
            relations: HashMap::default(),
            sizes: HashMap::default(),
            last_size: None,
            slru,
            slru_sizes: HashMap::default(),
            two_phase: timeline.two_phase_dir(lsn).await?,
            tablespaces: timeline.tablespace_dir(lsn).await?,
            control: ControlFile::decode(&timeline.get(Key::CONTROL_FILE, lsn).await?)?,
        })
    }

    pub fn set_size(&mut self, rel: RelTag, size: Option<u32>) {
        if self.sizes.len() >= SIZES_MAX {
            self.sizes.clear();
        }
        self.sizes.insert(rel, size);
        self.last_size = size.map(|size| (rel, size));
    }

    pub fn forget_database(&mut self, spc: u32, db: u32) {
        self.sizes.retain(|rel, _| (rel.spc, rel.db) != (spc, db));
        self.relations.retain(|(s, d, _), _| (*s, *d) != (spc, db));
        self.last_size = None;
    }
}
