//! Major versions of PostgreSQL and what differs between their formats.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A supported major version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum PgVersion {
    V14,
    V15,
    V16,
    V17,
    V18,
}

/// The number is not a supported major version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL {0} is not supported: choose a major version from 14 to 18")]
pub struct UnsupportedVersion(pub u32);

impl PgVersion {
    pub const DEFAULT: PgVersion = PgVersion::V15;
    pub const ALL: [PgVersion; 5] = [PgVersion::V14, PgVersion::V15, PgVersion::V16, PgVersion::V17, PgVersion::V18];

    pub fn major(self) -> u32 {
        14 + self as u32
    }

    /// `XLOG_PAGE_MAGIC` of this version's WAL pages.
    pub fn wal_magic(self) -> u16 {
        match self {
            PgVersion::V14 => 0xD10D,
            PgVersion::V15 => 0xD110,
            PgVersion::V16 => 0xD113,
            PgVersion::V17 => 0xD116,
            PgVersion::V18 => 0xD118,
        }
    }

    pub fn from_wal_magic(magic: u16) -> Option<PgVersion> {
        PgVersion::ALL.into_iter().find(|v| v.wal_magic() == magic)
    }

    /// `CATALOG_VERSION_NO`, which pg_control carries and which names the major version.
    pub fn from_catalog_version(number: u32) -> Option<PgVersion> {
        PgVersion::ALL.into_iter().find(|v| v.catalog_version() == number)
    }

    /// The inverse of [`PgVersion::from_catalog_version`].
    pub fn catalog_version(self) -> u32 {
        match self {
            PgVersion::V14 => 202_107_181,
            PgVersion::V15 => 202_209_061,
            PgVersion::V16 => 202_307_071,
            PgVersion::V17 => 202_406_281,
            PgVersion::V18 => 202_506_291,
        }
    }

    /// Size of a relation map file in bytes.
    pub fn relmap_size(self) -> usize {
        if self >= PgVersion::V16 { 524 } else { 512 }
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.major())
    }
}

impl TryFrom<u32> for PgVersion {
    type Error = UnsupportedVersion;

    fn try_from(major: u32) -> Result<PgVersion, UnsupportedVersion> {
        PgVersion::ALL.into_iter().find(|v| v.major() == major).ok_or(UnsupportedVersion(major))
    }
}

impl From<PgVersion> for u32 {
    fn from(version: PgVersion) -> u32 {
        version.major()
    }
}
