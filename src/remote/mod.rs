//! Remote storage, the truth: object names, the index of a timeline, ordered uploads, downloads.

pub mod client;
pub mod index;
pub mod path;
#[cfg(test)]
mod tests;
mod transfer;
pub mod upload;

pub use client::{RemoteClient, RemoteError, StoredIndex};
pub use index::{IndexPart, LayerMeta};
