//! Streams the files' content in key order into image layers. Memory: one megabyte of pages and one layer writer.

use super::ImportError;
use super::scan::{Database, PageFile, Tree};
use super::source::Stopped;
use crate::io_abstraction::disk::{Disk, OpenMode, read_file};
use crate::layer::writer::FinishedLayer;
use crate::layer::{LayerKind, LayerName, LayerWriter, ValueKind};
use crate::pg::checksum::verify_checksum;
use crate::pg::control::RELATION_FILE_BLOCKS;
use crate::timeline::directory::{DbDir, RelDir, SlruDir, TablespaceDir, TwoPhaseDir, encode_size};
use crate::types::key::REL_DIR_BUCKETS;
use crate::types::{Key, Lsn, PAGE_SIZE, RelTag, SlruKind, ZERO_PAGE};
use std::io;
use std::path::Path;

/// Pages read at once.
const READ_PAGES: u32 = 128;
/// Writes all values of the cluster. On an error the files written so far are removed.
pub fn write(
    disk: &dyn Disk,
    target: &Path,
    stopped: &Stopped,
    tree: &Tree,
    layer_bytes_max: u64,
) -> Result<Vec<FinishedLayer>, ImportError> {
    let mut layers = Layers {
        disk,
        directory: target,
        lsn: stopped.lsn,
        bytes_max: layer_bytes_max,
        writer: None,
        start: Key::MIN,
        finished: Vec::new(),
    };
    match cluster(&mut layers, stopped, tree).and_then(|()| layers.close(Key::MAX)) {
        Ok(()) => Ok(layers.finished),
        Err(error) => {
            if let Some(writer) = layers.writer.take() {
                // The first error is the one to tell; a leftover is removed at the next start.
                let _ = writer.discard(disk);
            }
            remove(disk, target, &layers.finished);
            Err(error)
        }
    }
}

/// Removes layers of an import that failed.
pub fn remove(disk: &dyn Disk, target: &Path, layers: &[FinishedLayer]) {
    for layer in layers {
        // Leftovers are in the way of nobody: no index names them.
        let _ = disk.unlink(&target.join(layer.name.to_string()));
    }
}

/// The layers that are being written: image layers at one LSN whose key ranges join (IM-2).
struct Layers<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    lsn: Lsn,
    bytes_max: u64,
    writer: Option<LayerWriter>,
    /// Where the current layer's key range begins.
    start: Key,
    finished: Vec<FinishedLayer>,
}

impl<'a> Layers<'a> {
    fn failed(&self, error: io::Error) -> ImportError {
        ImportError::Target { directory: self.directory.to_path_buf(), error }
    }

    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), ImportError> {
        if self.writer.as_ref().is_some_and(|writer| writer.size() >= self.bytes_max) {
            self.close(key)?;
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                LayerWriter::create(self.disk, self.directory, LayerKind::Image, self.finished.len() as u64).map_err(|e| self.failed(e))?
            }
        };
        let result = writer.put(key, self.lsn, ValueKind::Image, value, 0);
        self.writer = Some(writer);
        result.map_err(|e| self.failed(e))
    }

    /// A page; zeros are stored as an empty image.
    fn put_page(&mut self, key: Key, page: &[u8]) -> Result<(), ImportError> {
        self.put(key, if page == ZERO_PAGE { &[] } else { page })
    }

    /// Finishes the current layer; the next one begins at `end`.
    fn close(&mut self, end: Key) -> Result<(), ImportError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let finished = writer.finish(self.disk, LayerName::image(self.start..end, self.lsn)).map_err(|e| self.failed(e))?;
        self.finished.push(finished);
        self.start = end;
        Ok(())
    }
}

fn cluster(layers: &mut Layers<'_>, stopped: &Stopped, tree: &Tree) -> Result<(), ImportError> {
    let control = &stopped.control;
    let databases = DbDir(tree.databases.iter().map(|(name, database)| (*name, database.has_map)).collect());
    layers.put(Key::DB_DIR, &databases.encode())?;
    for (&(spc, db), database) in &tree.databases {
        let context = RelationContext { spc, db, checksums: control.data_checksums() };
        context.database(layers, database, control.version().relmap_size())?;
    }
    for kind in SlruKind::ALL {
        if let Some(segments) = tree.slrus.get(&kind) {
            slru(layers, kind, segments)?;
        }
    }
    layers.put(Key::TWO_PHASE_DIR, &TwoPhaseDir(tree.two_phase.keys().copied().collect()).encode())?;
    for (&xid, path) in &tree.two_phase {
        let payload = two_phase(layers.disk, path)?;
        layers.put(Key::two_phase_file(xid), &payload)?;
    }
    layers.put(Key::CONTROL_FILE, &control.encode())?;
    layers.put(Key::CHECKPOINT, &control.checkpoint_copy.encode())?;
    layers.put(Key::TABLESPACE_DIR, &TablespaceDir(tree.tablespaces.clone()).encode())
}

struct RelationContext {
    spc: u32,
    db: u32,
    checksums: bool,
}

impl RelationContext {
    fn database(&self, layers: &mut Layers<'_>, database: &Database, map_size: usize) -> Result<(), ImportError> {
        let (spc, db) = (self.spc, self.db);
        if database.has_map {
            let path = database.directory.join("pg_filenode.map");
            let map = read_file(layers.disk, &path).map_err(ImportError::io(&path))?;
            if map.len() != map_size {
                return Err(ImportError::file(&path, format!("has {} bytes, {map_size} are due", map.len())));
            }
            layers.put(Key::rel_map(spc, db), &map)?;
        }
        let mut buckets = vec![RelDir::default(); REL_DIR_BUCKETS as usize];
        for &(rel, fork) in database.relations.keys() {
            if let Some(bucket) = buckets.get_mut((rel % REL_DIR_BUCKETS) as usize) {
                bucket.0.insert((rel, fork));
            }
        }
        for (bucket, directory) in (0..).zip(&buckets) {
            layers.put(Key::rel_dir(spc, db, bucket), &directory.encode())?;
        }
        for (&(rel, fork), files) in &database.relations {
            self.relation(layers, RelTag { spc, db, rel, fork }, files)?;
        }
        Ok(())
    }

    fn relation(&self, layers: &mut Layers<'_>, rel: RelTag, files: &[PageFile]) -> Result<(), ImportError> {
        let mut blocks = 0;
        for (segment, file) in (0..).zip(files) {
            let first = segment * RELATION_FILE_BLOCKS;
            read_pages(layers, file, |layers, n, page| {
                let block = first + n;
                if self.checksums && !verify_checksum(page, block) {
                    return Err(ImportError::Checksum { path: file.path.clone(), block });
                }
                layers.put_page(Key::rel_block(rel, block), page)
            })?;
            blocks = first + file.pages;
        }
        layers.put(Key::rel_size(rel), &encode_size(blocks))
    }
}

/// Hands over the pages of a file, numbered from 0.
fn read_pages<'a>(
    layers: &mut Layers<'a>,
    file: &PageFile,
    mut take: impl FnMut(&mut Layers<'a>, u32, &[u8; PAGE_SIZE]) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    if file.pages == 0 {
        return Ok(());
    }
    let opened = layers.disk.open(&file.path, OpenMode::Read).map_err(ImportError::io(&file.path))?;
    let mut buffer = vec![0; READ_PAGES.min(file.pages) as usize * PAGE_SIZE];
    let mut done = 0;
    while done < file.pages {
        let now = READ_PAGES.min(file.pages - done);
        let Some(part) = buffer.get_mut(..now as usize * PAGE_SIZE) else { break };
        opened.read_exact_at(u64::from(done) * PAGE_SIZE as u64, part).map_err(ImportError::io(&file.path))?;
        let (pages, _) = part.as_chunks::<PAGE_SIZE>();
        for (n, page) in (done..).zip(pages) {
            take(layers, n, page)?;
        }
        done += now;
    }
    Ok(())
}

fn slru(layers: &mut Layers<'_>, kind: SlruKind, segments: &std::collections::BTreeMap<u32, PageFile>) -> Result<(), ImportError> {
    layers.put(Key::slru_dir(kind), &SlruDir(segments.keys().copied().collect()).encode())?;
    for (&segment, file) in segments {
        let first = segment * SlruKind::PAGES_PER_SEGMENT;
        read_pages(layers, file, |layers, n, page| layers.put_page(Key::slru_page(kind, first + n), page))?;
        layers.put(Key::slru_segment_size(kind, segment), &encode_size(file.pages))?;
    }
    Ok(())
}

/// The state of a prepared transaction, without the checksum that ends its file.
fn two_phase(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, ImportError> {
    let mut bytes = read_file(disk, path).map_err(ImportError::io(path))?;
    let (payload, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| ImportError::file(path, "is too short: the file is damaged"))?;
    if crc32c::crc32c(payload) != u32::from_le_bytes(*crc) {
        return Err(ImportError::file(path, "its checksum is wrong: the file is damaged"));
    }
    bytes.truncate(bytes.len() - 4);
    Ok(bytes)
}
