//! Remote storage, the truth: object names, the index of a timeline, ordered uploads, downloads.

pub mod attachment;
pub mod authority;
pub mod client;
pub mod index;
pub mod manifest;
pub mod path;
#[cfg(test)]
mod tests;
mod transfer;
pub mod upload;
pub mod validation;

pub use crate::types::AttachMode;
pub use attachment::Attachment;
pub use authority::{Authority, AuthorityError, ControlPlaneAuthority, StoreAuthority};
pub use client::{RemoteClient, RemoteError, StoredIndex};
pub use index::{IndexPart, LayerMeta};
pub use manifest::Manifest;
pub use validation::Validation;
