//! What is sent and what comes back, without effects. The form is told in docs/control-plane.md.
//!
//! Fields that are not known are passed over, so that a newer control plane is understood; everything else that is not as it should
//! be refuses the whole answer (CP-1).

use crate::types::{AttachMode, Generation, TenantId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Characters of a stranger's text that an error repeats.
const SHOWN: usize = 200;

/// Why an answer is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("it is not what docs/control-plane.md says: {0}")]
    Malformed(String),
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    #[error("it names tenant {0} twice")]
    Twice(TenantId),
    #[error("it gives no generation for tenant {0}, which this node is to attach")]
    NoGeneration(TenantId),
    #[error("it speaks of tenant {0}, which was not asked for")]
    NotAsked(TenantId),
}

/// How the control plane wants a tenant on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assigned {
    Attached {
        mode: AttachMode,
        generation: Generation,
    },
    /// Layers are kept for a later attachment.
    Secondary,
}

#[derive(Deserialize)]
struct Tenants<T> {
    tenants: Vec<T>,
}

#[derive(Deserialize)]
struct ReAttached {
    id: TenantId,
    #[serde(default, rename = "gen")]
    generation: Option<Generation>,
    #[serde(default)]
    mode: Option<Mode>,
}

#[derive(Deserialize)]
enum Mode {
    AttachedSingle,
    AttachedMulti,
    AttachedStale,
    Secondary,
}

#[derive(Serialize)]
struct ValidateRequest {
    tenants: Vec<Asked>,
}

#[derive(Serialize)]
struct Asked {
    id: TenantId,
    #[serde(rename = "gen")]
    generation: Generation,
}

#[derive(Deserialize)]
struct Validated {
    id: TenantId,
    valid: bool,
}

/// The body of `POST re-attach`.
pub(super) fn re_attach_request(node: u64) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({ "node_id": node })).expect("it is plain data")
}

/// What `POST re-attach` answered.
pub(super) fn re_attached(bytes: &[u8]) -> Result<BTreeMap<TenantId, Assigned>, AnswerError> {
    let mut assigned = BTreeMap::new();
    for ReAttached { id, generation, mode } in parse::<Tenants<ReAttached>>(bytes)?.tenants {
        let mode = match mode.unwrap_or(Mode::AttachedSingle) {
            Mode::AttachedSingle => Some(AttachMode::Single),
            Mode::AttachedMulti => Some(AttachMode::Multi),
            Mode::AttachedStale => Some(AttachMode::Stale),
            Mode::Secondary => None,
        };
        let how = match (mode, generation) {
            (None, _) => Assigned::Secondary,
            (Some(mode), Some(generation)) => Assigned::Attached { mode, generation },
            (Some(_), None) => return Err(AnswerError::NoGeneration(id)),
        };
        if assigned.insert(id, how).is_some() {
            return Err(AnswerError::Twice(id));
        }
    }
    Ok(assigned)
}

/// The body of `POST validate`.
pub(super) fn validate_request(asked: &[(TenantId, Generation)]) -> Vec<u8> {
    let tenants = asked.iter().map(|(id, generation)| Asked { id: *id, generation: *generation }).collect();
    serde_json::to_vec(&ValidateRequest { tenants }).expect("it is plain data")
}

/// What `POST validate` answered: those that are the newest. One that the control plane does not know is left out, and is not.
pub(super) fn validated(asked: &[(TenantId, Generation)], bytes: &[u8]) -> Result<BTreeSet<TenantId>, AnswerError> {
    let known: BTreeSet<TenantId> = asked.iter().map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    let mut valid = BTreeSet::new();
    for Validated { id, valid: is_valid } in parse::<Tenants<Validated>>(bytes)?.tenants {
        if !known.contains(&id) {
            return Err(AnswerError::NotAsked(id));
        }
        if !seen.insert(id) {
            return Err(AnswerError::Twice(id));
        }
        if is_valid {
            valid.insert(id);
        }
    }
    Ok(valid)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AnswerError> {
    serde_json::from_slice(bytes).map_err(|error| AnswerError::Malformed(shown(&error.to_string())))
}

/// As much of a stranger's text as belongs into a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}
