//! Layer files to remote storage and back, piece by piece: a transfer holds one piece in memory, whatever the layer's size.

use super::client::{RemoteClient, RemoteError};
use super::{LayerMeta, path};
use crate::io_abstraction::disk::{DiskFile, FileOps as _, OpenMode, TEMPORARY_SUFFIX};
use crate::layer::LayerName;
use crate::types::{TenantId, TimelineId};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use std::io;
use std::path::Path;

/// Size of a piece; a layer of at most this size goes up in one request. S3 takes parts of at least 5 MiB.
const PIECE_BYTES: usize = 8 << 20;
/// What the simulator may ask for instead, so that its small layers go up in parts too.
const SMALL_PIECE_BYTES: usize = 8 << 10;
/// Transfers of layers at a time: with the size of a piece this bounds their memory.
pub(super) const TRANSFERS_MAX: usize = 8;

impl RemoteClient {
    /// Uploads a local layer file under this node's generation; one try.
    pub async fn upload_layer(&self, tenant: TenantId, timeline: TimelineId, name: &LayerName, local: &Path) -> Result<(), RemoteError> {
        let _turn = self.transfer().await;
        let path = path::layer(tenant, timeline, name, self.generation());
        let (disk, file) = (self.env.disk.clone(), local.join(name.to_string()));
        let open = move || {
            let file = disk.open(&file, OpenMode::Read)?;
            io::Result::Ok((file.len()?, file))
        };
        let (len, file) = self.env.tasks.blocking("open-layer", open).await?;
        if crate::planted!(self.env, "file-never-closed") {
            std::mem::forget(file.clone());
        }
        let piece = if crate::buggify!(self.env, "small-pieces") { SMALL_PIECE_BYTES } else { PIECE_BYTES };
        if len <= piece as u64 {
            let bytes = self.read_piece(&file, 0, len).await?;
            return self.put(&path, bytes).await;
        }
        let mut upload = self.limited("start the upload of", &path, self.env.store.put_multipart(&path)).await?;
        let result = self.upload_pieces(&mut *upload, &path, (&file, len), piece).await;
        if result.is_err() {
            // What is left of it is invisible; stores remove it in their own time.
            let _ = self.limited("give up the upload of", &path, upload.abort()).await;
        }
        result
    }

    async fn upload_pieces(
        &self,
        upload: &mut dyn MultipartUpload,
        path: &ObjectPath,
        (file, len): (&DiskFile, u64),
        piece: usize,
    ) -> Result<(), RemoteError> {
        for from in (0..len).step_by(piece) {
            let piece = self.read_piece(file, from, (len - from).min(piece as u64)).await?;
            self.limited("put a part of", path, upload.put_part(PutPayload::from_bytes(piece))).await?;
        }
        self.limited("complete the upload of", path, upload.complete()).await.map(|_| ())
    }

    async fn read_piece(&self, file: &DiskFile, from: u64, len: u64) -> io::Result<Bytes> {
        let file = file.clone();
        let read = move || {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(from, &mut bytes)?;
            Ok(bytes.into())
        };
        self.env.tasks.blocking("read-layer", read).await
    }

    /// Brings a layer to the local disk: temporary name, sync, rename, sync of the directory.
    pub async fn download_layer(
        &self,
        tenant: TenantId,
        timeline: TimelineId,
        (name, meta): (&LayerName, LayerMeta),
        local: &Path,
    ) -> Result<(), RemoteError> {
        let _turn = self.transfer().await;
        let path = path::layer(tenant, timeline, name, meta.generation);
        let temporary = local.join(format!("{name}.download{TEMPORARY_SUFFIX}"));
        let (disk, directory, target) = (self.env.disk.clone(), local.to_path_buf(), temporary.clone());
        let create = move || {
            disk.create_dir_all(&directory)?;
            disk.open(&target, OpenMode::CreateTruncate)
        };
        let file = self.env.tasks.blocking("create-layer", create).await?;
        let len = self.retry(|| self.download_to(&path, &file)).await?;
        if len != meta.file_size {
            return Err(RemoteError::Size { path: path.to_string(), expected: meta.file_size, actual: len });
        }
        let (disk, local, name) = (self.env.disk.clone(), local.to_path_buf(), name.to_string());
        let store = move || {
            // A try before may have written more.
            file.set_len(len)?;
            file.sync_data()?;
            disk.rename(&temporary, &local.join(name))?;
            disk.sync_dir(&local)
        };
        Ok(self.env.tasks.blocking("store-layer", store).await?)
    }

    /// Writes an object into a file, from its start; gives its length. One try.
    async fn download_to(&self, path: &ObjectPath, file: &DiskFile) -> Result<u64, RemoteError> {
        let object = self.limited("get", path, self.env.store.get(path)).await?;
        let mut pieces = object.into_stream();
        let (mut piece, mut written) = (BytesMut::new(), 0);
        loop {
            let next = self.limited("read", path, async { pieces.next().await.transpose() }).await?;
            let ended = next.is_none();
            piece.extend_from_slice(&next.unwrap_or_default());
            if piece.len() >= PIECE_BYTES || (ended && !piece.is_empty()) {
                let (file, bytes, at) = (file.clone(), piece.split().freeze(), written);
                written += bytes.len() as u64;
                self.env.tasks.blocking("write-layer", move || file.write_at(at, &bytes)).await?;
            }
            if ended {
                return Ok(written);
            }
        }
    }
}
