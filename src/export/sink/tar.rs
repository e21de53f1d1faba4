//! A tar stream with GNU headers: files 0600, directories 0700 unless said otherwise, no owner, one time for all entries.

use super::{ByteOutput, Sink};
use async_trait::async_trait;
use bytes::Bytes;
use std::io;

const BLOCK: u64 = 512;

pub struct TarSink<'a> {
    output: &'a mut dyn ByteOutput,
    directory_mode: u32,
    time: u64,
    /// Bytes of the current file that are still to come.
    left: u64,
    padding: usize,
}

impl<'a> TarSink<'a> {
    pub fn new(output: &'a mut dyn ByteOutput) -> TarSink<'a> {
        TarSink { output, directory_mode: 0o700, time: 0, left: 0, padding: 0 }
    }

    pub fn directory_mode(self, mode: u32) -> TarSink<'a> {
        TarSink { directory_mode: mode, ..self }
    }

    async fn header(&mut self, path: &str, kind: tar::EntryType, mode: u32, len: u64) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path(path)?;
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(len);
        header.set_mtime(self.time);
        header.set_cksum();
        self.output.send(Bytes::copy_from_slice(header.as_bytes())).await
    }
}

#[async_trait]
impl Sink for TarSink<'_> {
    async fn begin(&mut self, time: i64) -> io::Result<()> {
        self.time = time.max(0) as u64;
        Ok(())
    }

    async fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(&format!("{path}/"), tar::EntryType::Directory, self.directory_mode, 0).await
    }

    async fn link(&mut self, path: &str, _target: &str) -> io::Result<()> {
        let why = format!("{path} cannot be elsewhere in a tar stream: export to a directory, or leave the tablespace in place");
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    async fn file(&mut self, path: &str, len: u64) -> io::Result<()> {
        self.left = len;
        self.padding = (len.next_multiple_of(BLOCK) - len) as usize;
        self.header(path, tar::EntryType::Regular, 0o600, len).await
    }

    async fn data(&mut self, bytes: Bytes) -> io::Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.expect("a file has as many bytes as were announced");
        if bytes.is_empty() { Ok(()) } else { self.output.send(bytes).await }
    }

    async fn file_end(&mut self) -> io::Result<()> {
        assert_eq!(self.left, 0, "a file has as many bytes as were announced");
        match self.padding {
            0 => Ok(()),
            padding => self.output.send(Bytes::from(vec![0; padding])).await,
        }
    }

    /// Two blocks of zeros end an archive.
    async fn finish(&mut self) -> io::Result<()> {
        self.output.send(Bytes::from_static(&[0; 2 * BLOCK as usize])).await?;
        self.output.flush().await
    }
}
