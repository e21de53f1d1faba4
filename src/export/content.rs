//! Streams the bytes of a planned file into the sink: pages in runs of a megabyte, checksums computed where the cluster has them.

use super::ExportError;
use super::plan::{Content, File};
use super::sink::Sink;
use super::start::Start;
use crate::io_abstraction::Env;
use crate::pg::checksum::set_checksum;
use crate::timeline::{ReadError, Timeline};
use crate::types::{Fork, Key, PAGE_SIZE, RelTag, SlruKind};
use bytes::{Bytes, BytesMut};
use std::io;

/// Pages handed to the sink at once.
const RUN_PAGES: u32 = 128;
/// WAL is handed to the sink in pieces of this size.
const WAL_RUN_BYTES: usize = 1 << 20;

/// Where the content is.
pub struct Source<'a> {
    pub env: &'a Env,
    pub timeline: &'a Timeline,
    pub start: &'a Start,
}

/// Writes one file; `advance` is told how many bytes went out.
pub async fn write(
    source: &Source<'_>,
    file: &File,
    sink: &mut dyn Sink,
    advance: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ExportError> {
    let failed = |error| ExportError::Sink { path: file.path.clone(), error };
    if let Content::Directory = file.content {
        return sink.directory(&file.path).await.map_err(failed);
    }
    sink.file(&file.path, file.len()).await.map_err(failed)?;
    let mut out = Out { sink, advance, path: &file.path };
    match &file.content {
        Content::Directory => {}
        Content::Bytes(bytes) => out.data(Bytes::copy_from_slice(bytes)).await?,
        Content::Relation { rel, first, blocks } => source.relation(*rel, *first, *blocks, &mut out).await?,
        Content::Slru { kind, segment, stored, pages } => out.data(source.slru(*kind, *segment, *stored, *pages).await?).await?,
        Content::Wal { segment, len } => {
            let (segment, len) = (segment.clone(), *len as usize);
            let read = source.env.tasks.blocking("export-wal", move || segment.bytes(len)).await;
            let mut bytes = Bytes::from(read.map_err(|error| ExportError::Wal { lsn: source.start.lsn, error })?);
            while !bytes.is_empty() {
                out.data(bytes.split_to(bytes.len().min(WAL_RUN_BYTES))).await?;
            }
        }
    }
    sink.file_end().await.map_err(failed)
}

struct Out<'a> {
    sink: &'a mut dyn Sink,
    advance: &'a mut (dyn FnMut(u64) + Send),
    path: &'a str,
}

impl Out<'_> {
    async fn data(&mut self, bytes: Bytes) -> Result<(), ExportError> {
        let len = bytes.len() as u64;
        self.sink.data(bytes).await.map_err(|error: io::Error| ExportError::Sink { path: self.path.to_string(), error })?;
        (self.advance)(len);
        Ok(())
    }
}

impl Source<'_> {
    async fn relation(&self, rel: RelTag, first: u32, blocks: u32, out: &mut Out<'_>) -> Result<(), ExportError> {
        let checksums = self.start.control.data_checksums();
        let mut done = 0;
        while done < blocks {
            let now = RUN_PAGES.min(blocks - done);
            let mut run = BytesMut::with_capacity(now as usize * PAGE_SIZE);
            for block in first + done..first + done + now {
                run.extend_from_slice(&self.page(rel, block).await?);
            }
            if checksums {
                let (pages, _) = run.as_chunks_mut::<PAGE_SIZE>();
                // The number within the relation, not within the file.
                (first + done..).zip(pages).for_each(|(block, page)| set_checksum(page, block));
            }
            out.data(run.freeze()).await?;
            done += now;
        }
        Ok(())
    }

    /// A block below the relation's end, which the plan knows.
    async fn page(&self, rel: RelTag, block: u32) -> Result<Bytes, ExportError> {
        let key = Key::rel_block(rel, block);
        match self.timeline.get(key, self.start.lsn).await {
            Ok(page) if page.len() == PAGE_SIZE => Ok(page),
            Ok(_) => Err(ReadError::Malformed { key, lsn: self.start.lsn, reason: "the page does not have 8192 bytes" }.into()),
            // The free space map grows without WAL. Servers repair it.
            Err(ReadError::Missing { .. }) if rel.fork == Fork::Fsm => Ok(Bytes::from_static(&[0; PAGE_SIZE])),
            Err(error) => Err(error.into()),
        }
    }

    async fn slru(&self, kind: SlruKind, segment: u32, stored: u32, pages: u32) -> Result<Bytes, ExportError> {
        let mut bytes = if stored > 0 { self.timeline.slru_segment(kind, segment, self.start.lsn).await? } else { Vec::new() };
        if bytes.len() != stored as usize * PAGE_SIZE {
            let what = format!("segment {segment:04X} of {} (first key {:?})", kind.directory(), Key::slru_segment_size(kind, segment));
            return Err(ExportError::Stored { timeline: self.timeline.identity.timeline, lsn: self.start.lsn, what });
        }
        bytes.resize(pages as usize * PAGE_SIZE, 0);
        Ok(Bytes::from(bytes))
    }
}
