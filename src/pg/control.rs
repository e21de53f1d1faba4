//! The control file `global/pg_control`: 8192 bytes, of which the first few hundred mean something.
//!
//! | offset | size | name |
//! | --- | --- | --- |
//! | 0 | 8 | system identifier |
//! | 8, 12 | 4 | control file version, catalog version |
//! | 16 | 4 | state |
//! | 24 | 8 | time of the last update, seconds since 1970 |
//! | 32 | 8 | LSN of the last checkpoint record |
//! | 40 | 88 | copy of it, see [`CheckPoint`] |
//! | 128 | 8 | fake LSN counter of unlogged relations |
//! | 136, 144 | 8, 4 | minimum recovery point, its timeline |
//! | 152, 160, 168 | 8, 8, 1 | backup start, backup end, backup end required |
//! | 172 | 4 | wal_level |
//! | 176 | 1 | wal_log_hints |
//! | 180, 184, 188, 192, 196 | 4 | max_connections, max_worker_processes, max_wal_senders, max_prepared_xacts, max_locks_per_xact |
//! | 200 | 1 | track_commit_timestamp |
//! | 204, 208 | 4, 8 | alignment, float format (1234567.0) |
//! | 216, 220, 224, 228 | 4 | page size, blocks in a relation's file, WAL page size, WAL segment size |
//! | 252 | 4 | data checksum version, 0 is off |
//! | 256 (18: 257) | 32 | mock authentication nonce |
//! | 288 (18: 292) | 4 | CRC-32C of everything before |
//!
//! Little-endian. What is not named here is kept as it was. Source: PostgreSQL 15 and 18 `catalog/pg_control.h`; checked against initdb of 14 to 18.

pub use crate::pg::checkpoint::{CHECKPOINT_LEN, CheckPoint, FullXid};
use crate::pg::version::PgVersion;
use crate::types::{Lsn, PAGE_SIZE};

/// Size of the file in bytes.
pub const CONTROL_FILE_SIZE: usize = 8192;
/// Smallest part of it that holds all fields of every version.
const CONTROL_DATA_MAX: usize = 296;
/// Blocks in one file of a relation, the only value supported (`RELSEG_SIZE`).
pub const RELATION_FILE_BLOCKS: u32 = 131_072;
const FLOAT_FORMAT: f64 = 1_234_567.0;

/// Why bytes are not a usable control file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("pg_control has {0} bytes, at least 296 are needed")]
    Short(usize),
    #[error("pg_control of version {control} with catalog {catalog} is of no supported PostgreSQL (14 to 18)")]
    Version { control: u32, catalog: u32 },
    #[error("pg_control is damaged: its CRC is {actual:08X}, it says {expected:08X}")]
    Crc { expected: u32, actual: u32 },
    #[error("pg_control: {what} is {found}, only {supported} is supported")]
    Unsupported { what: &'static str, found: u64, supported: u64 },
    #[error("pg_control: state {0} is unknown")]
    State(u32),
}

/// What the cluster was doing when the file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ClusterState {
    StartingUp = 0,
    ShutDown = 1,
    ShutDownInRecovery = 2,
    ShuttingDown = 3,
    InCrashRecovery = 4,
    InArchiveRecovery = 5,
    InProduction = 6,
}

impl ClusterState {
    pub fn from_number(number: u32) -> Option<ClusterState> {
        use ClusterState::*;
        [StartingUp, ShutDown, ShutDownInRecovery, ShuttingDown, InCrashRecovery, InArchiveRecovery, InProduction]
            .get(number as usize)
            .copied()
    }
}

/// The settings a standby must match, as the primary last logged them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    pub max_connections: i32,
    pub max_worker_processes: i32,
    pub max_wal_senders: i32,
    pub max_prepared_xacts: i32,
    pub max_locks_per_xact: i32,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    pub wal_log_hints: bool,
    pub track_commit_timestamp: bool,
}

/// A control file taken apart. Fields that are not listed stay as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    raw: Vec<u8>,
    version: PgVersion,
    pub system_id: u64,
    pub state: ClusterState,
    /// Seconds since 1970.
    pub time: i64,
    pub checkpoint: Lsn,
    pub checkpoint_copy: CheckPoint,
    pub unlogged_lsn: Lsn,
    pub min_recovery_point: Lsn,
    pub min_recovery_point_tli: u32,
    pub backup_start_point: Lsn,
    pub backup_end_point: Lsn,
    pub backup_end_required: bool,
    pub limits: ServerLimits,
    /// Bytes.
    pub wal_segment_size: u32,
    /// 0: pages carry no checksums.
    pub data_checksum_version: u32,
    pub mock_authentication_nonce: [u8; 32],
}

fn nonce_offset(version: PgVersion) -> usize {
    if version >= PgVersion::V18 { 257 } else { 256 }
}

fn crc_offset(version: PgVersion) -> usize {
    if version >= PgVersion::V18 { 292 } else { 288 }
}

/// Little-endian fields of a buffer whose length was checked.
struct Fields<'a>(&'a [u8; CONTROL_DATA_MAX]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        let b = self.0;
        u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at + 4)) << 32 | u64::from(self.u32(at))
    }

    fn i32(&self, at: usize) -> i32 {
        self.u32(at) as i32
    }

    fn lsn(&self, at: usize) -> Lsn {
        Lsn(self.u64(at))
    }

    fn bool(&self, at: usize) -> bool {
        self.0[at] != 0
    }
}

impl ControlFile {
    /// Reads the file.
    ///
    /// Errors: another version, a wrong CRC, a build with other page sizes.
    pub fn decode(bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let f = Fields(bytes.first_chunk::<CONTROL_DATA_MAX>().ok_or(ControlError::Short(bytes.len()))?);
        let version = check_version(&f)?;
        let crc_at = crc_offset(version);
        let (expected, actual) = (f.u32(crc_at), crc32c::crc32c(&f.0[..crc_at]));
        if expected != actual {
            return Err(ControlError::Crc { expected, actual });
        }
        check_build(&f)?;
        let mut raw = bytes.to_vec();
        raw.resize(CONTROL_FILE_SIZE, 0);
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&f.0[nonce_offset(version)..nonce_offset(version) + 32]);
        Ok(ControlFile {
            version,
            system_id: f.u64(0),
            state: ClusterState::from_number(f.u32(16)).ok_or(ControlError::State(f.u32(16)))?,
            time: f.u64(24) as i64,
            checkpoint: f.lsn(32),
            checkpoint_copy: CheckPoint::decode(&f.0[40..40 + CHECKPOINT_LEN], version).ok_or(ControlError::Short(bytes.len()))?,
            unlogged_lsn: f.lsn(128),
            min_recovery_point: f.lsn(136),
            min_recovery_point_tli: f.u32(144),
            backup_start_point: f.lsn(152),
            backup_end_point: f.lsn(160),
            backup_end_required: f.bool(168),
            limits: ServerLimits {
                wal_level: f.i32(172),
                wal_log_hints: f.bool(176),
                max_connections: f.i32(180),
                max_worker_processes: f.i32(184),
                max_wal_senders: f.i32(188),
                max_prepared_xacts: f.i32(192),
                max_locks_per_xact: f.i32(196),
                track_commit_timestamp: f.bool(200),
            },
            wal_segment_size: f.u32(228),
            data_checksum_version: f.u32(252),
            mock_authentication_nonce: nonce,
            raw,
        })
    }

    /// The file's 8192 bytes with a fresh CRC.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.raw.clone();
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.system_id.to_le_bytes());
        put(16, &(self.state as u32).to_le_bytes());
        put(24, &self.time.to_le_bytes());
        put(40, &self.checkpoint_copy.encode());
        for (at, lsn) in [
            (32, self.checkpoint),
            (128, self.unlogged_lsn),
            (136, self.min_recovery_point),
            (152, self.backup_start_point),
            (160, self.backup_end_point),
        ] {
            put(at, &lsn.0.to_le_bytes());
        }
        put(144, &self.min_recovery_point_tli.to_le_bytes());
        put(168, &[u8::from(self.backup_end_required)]);
        let limits = &self.limits;
        for (at, value) in [
            (172, limits.wal_level),
            (180, limits.max_connections),
            (184, limits.max_worker_processes),
            (188, limits.max_wal_senders),
            (192, limits.max_prepared_xacts),
            (196, limits.max_locks_per_xact),
        ] {
            put(at, &value.to_le_bytes());
        }
        put(176, &[u8::from(limits.wal_log_hints)]);
        put(200, &[u8::from(limits.track_commit_timestamp)]);
        put(228, &self.wal_segment_size.to_le_bytes());
        put(252, &self.data_checksum_version.to_le_bytes());
        put(nonce_offset(self.version), &self.mock_authentication_nonce);
        let crc_at = crc_offset(self.version);
        let crc = crc32c::crc32c(&out[..crc_at]);
        out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn version(&self) -> PgVersion {
        self.version
    }

    pub fn data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }

    /// Whether hint-bit changes are logged: then the LSN of a heap page moves when it becomes all-visible.
    pub fn logs_hints(&self) -> bool {
        self.data_checksums() || self.limits.wal_log_hints
    }

    /// Makes this the file of a cluster that was cleanly shut down with the checkpoint record at `at`, which is also its redo position.
    pub fn set_shut_down(&mut self, at: Lsn, checkpoint: CheckPoint) {
        self.state = ClusterState::ShutDown;
        self.checkpoint = at;
        self.checkpoint_copy = CheckPoint { redo: at, ..checkpoint };
        self.min_recovery_point = Lsn::INVALID;
        self.min_recovery_point_tli = 0;
        self.backup_start_point = Lsn::INVALID;
        self.backup_end_point = Lsn::INVALID;
        self.backup_end_required = false;
    }
}

fn check_version(f: &Fields<'_>) -> Result<PgVersion, ControlError> {
    let (control, catalog) = (f.u32(8), f.u32(12));
    let wrong = ControlError::Version { control, catalog };
    let version = PgVersion::from_catalog_version(catalog).ok_or(wrong.clone())?;
    let expected = match version {
        PgVersion::V14 | PgVersion::V15 | PgVersion::V16 => 1300,
        PgVersion::V17 => 1700,
        PgVersion::V18 => 1800,
    };
    if control == expected { Ok(version) } else { Err(wrong) }
}

fn check_build(f: &Fields<'_>) -> Result<(), ControlError> {
    for (what, found, supported) in [
        ("alignment", u64::from(f.u32(204)), 8),
        ("float format", f.u64(208), FLOAT_FORMAT.to_bits()),
        ("page size", u64::from(f.u32(216)), PAGE_SIZE as u64),
        ("number of blocks in a relation's file", u64::from(f.u32(220)), u64::from(RELATION_FILE_BLOCKS)),
        ("WAL page size", u64::from(f.u32(224)), crate::types::lsn::WAL_PAGE_SIZE),
    ] {
        if found != supported {
            return Err(ControlError::Unsupported { what, found, supported });
        }
    }
    let segment = u64::from(f.u32(228));
    if !crate::pg::xlog::page::segment_size_is_valid(segment) {
        let what = "WAL segment size (a power of two from 1 MiB to 1 GiB)";
        return Err(ControlError::Unsupported { what, found: segment, supported: crate::types::lsn::WAL_SEGMENT_SIZE });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first 512 bytes of the control files that initdb of each version writes with `-k`.
    const FILES: [&[u8]; 5] = [
        include_bytes!("testdata/pg_control.14"),
        include_bytes!("testdata/pg_control.15"),
        include_bytes!("testdata/pg_control.16"),
        include_bytes!("testdata/pg_control.17"),
        include_bytes!("testdata/pg_control.18"),
    ];

    #[test]
    fn files_of_all_versions() {
        for (bytes, version) in FILES.into_iter().zip(PgVersion::ALL) {
            let control = ControlFile::decode(bytes).unwrap();
            assert_eq!(control.version(), version);
            assert_eq!(control.state, ClusterState::ShutDown);
            assert_eq!(control.checkpoint, control.checkpoint_copy.redo);
            assert!(control.checkpoint.0 > 1 << 24 && control.time > 1_700_000_000);
            assert!((control.checkpoint_copy.time - control.time).abs() < 600);
            let want = ServerLimits {
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_xacts: 0,
                max_locks_per_xact: 64,
                wal_level: 1,
                wal_log_hints: false,
                track_commit_timestamp: false,
            };
            assert_eq!(control.limits, want, "{version}");
            assert_eq!((control.data_checksum_version, control.wal_segment_size), (1, 16 << 20));
            assert_eq!(control.unlogged_lsn, Lsn(1000));
            let point = &control.checkpoint_copy;
            assert_eq!((point.tli, point.prev_tli, point.full_page_writes, point.next_multi), (1, 1, true, 1));
            assert_eq!(point.wal_level, (version >= PgVersion::V17).then_some(1));
            assert!(point.next_xid.epoch() == 0 && (700..1000).contains(&point.next_xid.xid()), "{point:?}");
            assert!((3..point.next_xid.xid()).contains(&point.oldest_xid) && point.oldest_active_xid == 0);
            assert!(control.mock_authentication_nonce.iter().filter(|&&b| b == 0).count() < 8);
            let mut whole = bytes.to_vec();
            whole.resize(CONTROL_FILE_SIZE, 0);
            assert_eq!(control.encode(), whole, "{version} round trip");
        }
    }

    #[test]
    fn every_field_is_written() {
        for bytes in FILES {
            let mut control = ControlFile::decode(bytes).unwrap();
            control.system_id = 1;
            control.time = 2;
            control.unlogged_lsn = Lsn(3);
            control.min_recovery_point = Lsn(4);
            control.min_recovery_point_tli = 5;
            control.backup_start_point = Lsn(6);
            control.backup_end_point = Lsn(7);
            control.backup_end_required = true;
            control.limits = ServerLimits {
                max_connections: 8,
                max_worker_processes: 9,
                max_wal_senders: 10,
                max_prepared_xacts: 11,
                max_locks_per_xact: 12,
                wal_level: 2,
                wal_log_hints: true,
                track_commit_timestamp: true,
            };
            control.wal_segment_size = 1 << 20;
            control.data_checksum_version = 0;
            control.mock_authentication_nonce = [13; 32];
            control.state = ClusterState::InProduction;
            let encoded = control.encode();
            let back = ControlFile::decode(&encoded).unwrap();
            let fields = |c: &ControlFile| ControlFile { raw: Vec::new(), ..c.clone() };
            assert_eq!(fields(&back), fields(&control));
            assert!(back.logs_hints() && !back.data_checksums());

            control.set_shut_down(Lsn(0x5000_0028), CheckPoint { tli: 9, ..control.checkpoint_copy.clone() });
            let back = ControlFile::decode(&control.encode()).unwrap();
            assert_eq!(
                (back.state, back.checkpoint, back.checkpoint_copy.redo),
                (ClusterState::ShutDown, Lsn(0x5000_0028), Lsn(0x5000_0028))
            );
            assert_eq!((back.min_recovery_point, back.backup_end_required, back.checkpoint_copy.tli), (Lsn(0), false, 9));
        }
    }

    #[test]
    fn damage_is_found() {
        for (bytes, version) in FILES.into_iter().zip(PgVersion::ALL) {
            for at in 0..crc_offset(version) + 4 {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 4;
                assert!(ControlFile::decode(&damaged).is_err(), "{version} byte {at}");
            }
        }
        assert_eq!(ControlFile::decode(&[1; 295]), Err(ControlError::Short(295)));
        assert_eq!(ControlFile::decode(&[0; 8192]), Err(ControlError::Version { control: 0, catalog: 0 }));
        let mut other = FILES[1].to_vec();
        other[217] = 0x40;
        let crc = crc32c::crc32c(&other[..288]);
        other[288..292].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(ControlFile::decode(&other), Err(ControlError::Unsupported { what: "page size", found: 16384, supported: 8192 }));
    }
}
