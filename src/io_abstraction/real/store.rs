//! A local directory as object store.

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use std::path::Path;
use std::sync::Arc;

/// Opens a directory as object store, every write synced before it returns.
///
/// Errors: the directory cannot be created or resolved.
pub fn local_store(directory: &Path) -> std::io::Result<Arc<dyn ObjectStore>> {
    std::fs::create_dir_all(directory)?;
    let store = LocalFileSystem::new_with_prefix(directory).map_err(std::io::Error::other)?;
    Ok(Arc::new(store.with_fsync(true)))
}
