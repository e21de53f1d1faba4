//! Generations order the owners of a tenant; every remote object carries its writer's. The mode says what an owner may do.

use serde::{Deserialize, Serialize};

/// Number of an attachment. Grows with every start or re-attachment; object names carry it as `-` and 8 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl Generation {
    pub const FIRST: Generation = Generation(1);

    /// The suffix of object names written in this generation.
    pub fn suffix(self) -> String {
        format!("-{:08x}", self.0)
    }

    /// Reads the suffix of an object name: (name without suffix, generation).
    pub fn split_suffix(name: &str) -> Option<(&str, Generation)> {
        let at = name.len().checked_sub(9)?;
        let (stem, suffix) = (name.get(..at)?, name.get(at..)?);
        let digits = suffix.strip_prefix('-')?;
        let valid = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten().map(|g| (stem, Generation(g)))
    }

    /// `None` after the last one, which a client may have asked for.
    pub fn next(self) -> Option<Generation> {
        self.0.checked_add(1).map(Generation)
    }
}

/// What an attached node may do to remote storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachMode {
    /// Everything.
    Single,
    /// Another node still reads what is there: nothing is deleted.
    Multi,
    /// Another node took over: nothing is written or deleted, and no LSN is told as remotely consistent.
    Stale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_round_trip() {
        let name = format!("index_part.json{}", Generation(0x2a).suffix());
        assert_eq!(name, "index_part.json-0000002a");
        assert_eq!(Generation::split_suffix(&name), Some(("index_part.json", Generation(0x2a))));
        assert_eq!(Generation::split_suffix("index_part.json"), None);
        assert_eq!(Generation::split_suffix("x-0000002A"), None);
        assert_eq!(Generation::split_suffix("é-00002a"), None);
    }
}
