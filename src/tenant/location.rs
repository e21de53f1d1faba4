//! What this node keeps of a tenant in its own directory: in which mode it has it. What the tenant is says remote storage.

use crate::config::Config;
use crate::io_abstraction::Disk;
use crate::io_abstraction::disk::{TEMPORARY_SUFFIX, create_dir_durably, read_file, write_file_durably};
use crate::remote::AttachMode;
use crate::types::{Generation, TenantId};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

const FILE: &str = "location.json";
/// A tenant with this file is not loaded until it is told to.
pub const IGNORE_MARK: &str = "___ignored_tenant";

/// How a node has a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode")]
pub enum Location {
    Attached {
        access: AttachMode,
        /// The least generation of the next attachment, if somebody gave one.
        generation: Option<Generation>,
    },
    /// Layers are kept for a later attachment; `warm`: and fetched as the attached node reports them.
    Secondary { warm: bool },
}

impl Location {
    /// What a node does that nobody told otherwise.
    pub const ATTACHED: Location = Location::Attached { access: AttachMode::Single, generation: None };
}

/// The directory of a tenant on this node.
#[derive(Debug, Clone)]
pub struct TenantDirectory {
    root: PathBuf,
    pub path: PathBuf,
}

/// What lies in the place of a tenant.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Ignored,
    Here(Location),
}

impl TenantDirectory {
    pub fn of(config: &Config, tenant: TenantId) -> TenantDirectory {
        TenantDirectory { root: config.data_dir.clone(), path: config.data_dir.join("tenants").join(tenant.to_string()) }
    }

    pub fn timelines(&self) -> PathBuf {
        self.path.join("timelines")
    }

    /// Whether anything of the tenant's data is here: not after a creation or an attachment that was cut off before its manifest.
    pub fn has_timelines(&self, disk: &dyn Disk) -> io::Result<bool> {
        match disk.list(&self.timelines()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => Ok(!other?.is_empty()),
        }
    }

    pub fn look(&self, disk: &dyn Disk) -> io::Result<Found> {
        match disk.list(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
            Ok(entries) if entries.iter().any(|entry| entry.name == IGNORE_MARK) => return Ok(Found::Ignored),
            Ok(_) => {}
        }
        match read_file(disk, &self.path.join(FILE)) {
            // A node that is told nothing serves what it has.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Here(Location::ATTACHED)),
            Err(error) => Err(error),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Found::Here).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Durable when it returns.
    pub fn store(&self, disk: &dyn Disk, location: Location) -> io::Result<()> {
        create_dir_durably(disk, &self.root, &self.path)?;
        let bytes = serde_json::to_vec(&location).expect("a location is plain data");
        write_file_durably(disk, &self.path.join(FILE), &bytes)
    }

    pub fn set_ignored(&self, disk: &dyn Disk, ignored: bool) -> io::Result<()> {
        let mark = self.path.join(IGNORE_MARK);
        if ignored {
            return write_file_durably(disk, &mark, b"");
        }
        disk.unlink(&mark)?;
        disk.sync_dir(&self.path)
    }

    /// Takes the directory away in one durable step; gives where what is left of it waits for its removal.
    pub fn take_away(&self, disk: &dyn Disk, unique: u64) -> io::Result<Option<PathBuf>> {
        let trash = self.path.with_extension(format!("{unique}{TEMPORARY_SUFFIX}"));
        match disk.rename(&self.path, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        }
        disk.sync_dir(self.path.parent().unwrap_or(&self.root))?;
        Ok(Some(trash))
    }
}

/// Tenants that have a directory. What was being removed goes on being removed.
pub fn local_tenants(disk: &dyn Disk, config: &Config) -> io::Result<Vec<TenantId>> {
    let directory = config.data_dir.join("tenants");
    let entries = match disk.list(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    for trash in entries.iter().filter(|entry| entry.name.ends_with(TEMPORARY_SUFFIX)) {
        disk.remove_dir_all(&directory.join(&trash.name))?;
    }
    let mut tenants: Vec<TenantId> = entries.iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.parse().ok()).collect();
    tenants.sort_unstable();
    Ok(tenants)
}
