//! A minimal data directory of a cleanly stopped PostgreSQL 15, for imports.
//!
//! Written from the layouts, independently of the product's own readers and writers.
//! Source: PostgreSQL 15 `catalog/pg_control.h`, `utils/cache/relmapper.c`.

use super::generator::{DATABASE, FIRST_OID, FIRST_XID, Generator, START_SECONDS, checkpoint_body};
use super::heap;
use palimpsest::io_abstraction::disk::FileOps as _;
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{Disk, OpenMode, RngSource};
use palimpsest::types::lsn::segment_file_name;
use palimpsest::types::{Lsn, PAGE_SIZE};
use rand_core::Rng as _;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Length of pg_control's protected part; the checksum follows.
const CONTROL_CRC_AT: usize = 288;
const RELMAP_CRC_AT: usize = 504;

/// The files of a stopped cluster: path below the data directory, and content.
pub struct DataDir {
    files: BTreeMap<String, Vec<u8>>,
    directories: Vec<&'static str>,
}

/// Makes the cluster that `generator` continues, and tells its model what is in it.
pub fn build(generator: &mut Generator, source: &RngSource) -> DataDir {
    let mut rng = source.stream("datadir");
    let mut files = BTreeMap::new();
    files.insert("PG_VERSION".to_string(), b"15".to_vec());
    files.insert("global/pg_control".to_string(), control_file(generator));
    files.insert("global/pg_filenode.map".to_string(), relmap(&[(1260, 1260), (1262, 1262)]));
    for (dir, relation) in [("base/1", 1259), ("base/4", 1259), ("base/5", 1259), ("global", 1262)] {
        if dir != "global" {
            files.insert(format!("{dir}/PG_VERSION"), b"15".to_vec());
            files.insert(format!("{dir}/pg_filenode.map"), relmap(&[(1259, 1259)]));
        }
        let mut page = heap::empty_page(0);
        page[0..8].copy_from_slice(&page_lsn(Lsn(0x0100_0000)));
        heap::put_tuple(&mut page, 2, 0, format!("the only row of {dir}/{relation}").as_bytes());
        files.insert(format!("{dir}/{relation}"), page.to_vec());
    }
    for count in [3u32, 1] {
        let mut pages = Vec::new();
        for block in 0..count {
            let mut page = heap::empty_page(0);
            page[0..8].copy_from_slice(&page_lsn(Lsn(0x0100_0000)));
            for _ in 0..=below(&mut rng, 6) {
                let mut columns = vec![0; 8 + below(&mut rng, 100) as usize];
                rng.fill_bytes(&mut columns);
                heap::put_tuple(&mut page, FIRST_XID - 1, block, &columns);
            }
            pages.push(page);
        }
        let rel = generator.import_table(&pages);
        files.insert(format!("base/{DATABASE}/{}", rel.rel), pages.iter().flat_map(|page| page.iter().copied()).collect());
    }
    let mut clog = Box::new([0u8; PAGE_SIZE]);
    for xid in 3..FIRST_XID as usize {
        clog[xid / 4] |= 1 << (xid % 4 * 2);
    }
    generator.model.load_clog(&clog);
    files.insert("pg_xact/0000".to_string(), clog.to_vec());
    files.insert("pg_multixact/offsets/0000".to_string(), vec![0; PAGE_SIZE]);
    files.insert("pg_multixact/members/0000".to_string(), vec![0; PAGE_SIZE]);
    let identity = generator.writer.identity();
    let number = generator.checkpoint.start.segment_number(identity.segment_size);
    let start = Lsn(number * identity.segment_size);
    let wal = generator.writer.bytes(start..generator.end()).expect("the segment begins with the checkpoint").to_vec();
    files.insert(format!("pg_wal/{}", segment_file_name(identity.tli, number, identity.segment_size)), wal);
    DataDir { files, directories: vec!["pg_twophase", "pg_commit_ts", "pg_tblspc", "pg_wal/archive_status"] }
}

/// An LSN as a page header holds it: the high half first.
fn page_lsn(lsn: Lsn) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&((lsn.0 >> 32) as u32).to_le_bytes());
    out[4..].copy_from_slice(&(lsn.0 as u32).to_le_bytes());
    out
}

fn control_file(generator: &Generator) -> Vec<u8> {
    let identity = generator.writer.identity();
    let mut out = vec![0; 8192];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &identity.system_id.to_le_bytes());
    put(8, &1300u32.to_le_bytes()); // pg_control_version
    put(12, &202_209_061u32.to_le_bytes()); // catalog_version_no
    put(16, &1u32.to_le_bytes()); // state: shut down
    put(24, &START_SECONDS.to_le_bytes());
    put(32, &generator.checkpoint.start.0.to_le_bytes());
    put(40, &checkpoint_body(generator.checkpoint.start, FIRST_XID, FIRST_OID, START_SECONDS, 0));
    put(128, &1000u64.to_le_bytes()); // unloggedLSN
    put(172, &1u32.to_le_bytes()); // wal_level: replica
    put(180, &100u32.to_le_bytes()); // max_connections
    put(184, &8u32.to_le_bytes()); // max_worker_processes
    put(188, &10u32.to_le_bytes()); // max_wal_senders
    put(196, &64u32.to_le_bytes()); // max_locks_per_xact
    put(204, &8u32.to_le_bytes()); // maxAlign
    put(208, &1_234_567f64.to_le_bytes());
    put(216, &8192u32.to_le_bytes()); // blcksz
    put(220, &131_072u32.to_le_bytes()); // relseg_size
    put(224, &8192u32.to_le_bytes()); // xlog_blcksz
    put(228, &(identity.segment_size as u32).to_le_bytes());
    put(232, &64u32.to_le_bytes()); // nameDataLen
    put(236, &32u32.to_le_bytes()); // indexMaxKeys
    put(240, &1996u32.to_le_bytes()); // toast_max_chunk_size
    put(244, &2048u32.to_le_bytes()); // loblksize
    put(248, &[1]); // float8ByVal
    put(256, &[7; 32]); // mock_authentication_nonce
    let crc = crc32c::crc32c(&out[..CONTROL_CRC_AT]);
    out[CONTROL_CRC_AT..CONTROL_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn relmap(mappings: &[(u32, u32)]) -> Vec<u8> {
    let mut out = 0x0059_2717u32.to_le_bytes().to_vec();
    out.extend_from_slice(&(mappings.len() as u32).to_le_bytes());
    for (oid, file) in mappings {
        out.extend_from_slice(&oid.to_le_bytes());
        out.extend_from_slice(&file.to_le_bytes());
    }
    out.resize(512, 0);
    let crc = crc32c::crc32c(&out[..RELMAP_CRC_AT]);
    out[RELMAP_CRC_AT..RELMAP_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

impl DataDir {
    /// Writes the cluster below `dir`, durably.
    pub fn write(&self, disk: &dyn Disk, dir: &Path, segment_size: u64) -> io::Result<()> {
        disk.remove_dir_all(dir)?;
        let paths = self.files.keys().filter_map(|path| path.rsplit_once('/').map(|(parent, _)| parent));
        for path in paths.chain(self.directories.iter().copied()) {
            disk.create_dir_all(&dir.join(path))?;
        }
        for (path, content) in &self.files {
            let file = disk.open(&dir.join(path), OpenMode::CreateNew)?;
            file.write_at(0, content)?;
            if path.starts_with("pg_wal/") {
                file.set_len(segment_size)?;
            }
            file.sync_data()?;
        }
        sync_tree(disk, dir)?;
        dir.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
    }
}

fn sync_tree(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for entry in disk.list(dir)?.into_iter().filter(|e| e.is_dir) {
        sync_tree(disk, &dir.join(entry.name))?;
    }
    disk.sync_dir(dir)
}
