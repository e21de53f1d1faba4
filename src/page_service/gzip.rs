//! Gzip in front of another output. Fastest level: the bytes are mostly zeros, and somebody waits for them.

use crate::export::ByteOutput;
use async_trait::async_trait;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{self, Write as _};

/// Packed at once: what a task may take from the others, about a millisecond.
const PIECE: usize = 128 << 10;
/// Packed bytes that gather before they go on.
const GATHER_BYTES: usize = 64 << 10;

pub(super) struct GzipOutput<'a> {
    inner: &'a mut dyn ByteOutput,
    encoder: GzEncoder<Vec<u8>>,
}

impl<'a> GzipOutput<'a> {
    pub(super) fn new(inner: &'a mut dyn ByteOutput) -> GzipOutput<'a> {
        GzipOutput { inner, encoder: GzEncoder::new(Vec::new(), Compression::fast()) }
    }

    async fn pass_on(&mut self) -> io::Result<()> {
        let packed = std::mem::take(self.encoder.get_mut());
        if packed.is_empty() { Ok(()) } else { self.inner.send(packed.into()).await }
    }

    /// Writes the trailer. Without it a reader sees that something is missing.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        self.encoder.try_finish()?;
        self.pass_on().await?;
        self.inner.flush().await
    }
}

#[async_trait]
impl ByteOutput for GzipOutput<'_> {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.encoder.write_all(piece)?;
            if self.encoder.get_ref().len() >= GATHER_BYTES {
                self.pass_on().await?;
            }
        }
        Ok(())
    }

    /// Only what is packed already: the end of the tar is not the end of the stream.
    async fn flush(&mut self) -> io::Result<()> {
        self.pass_on().await
    }
}
