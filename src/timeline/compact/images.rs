//! Image layers: whole values of a part of the key space at one LSN, so that readers above it look into nothing older.
//!
//! Invariant CO-3: an image layer changes no answer. It holds the value that a read at its LSN gives; a key that it lacks is looked
//! for below it, as if it were not there.

use super::CompactError;
use super::keyspace::Part;
use crate::io_abstraction::tasks::yield_now;
use crate::layer::writer::FinishedLayer;
use crate::layer::{LayerKind, LayerName, LayerWriter, ValueKind};
use crate::redo::executor::RedoFailure;
use crate::timeline::flush::discard;
use crate::timeline::{ReadError, Timeline};
use crate::types::{Key, Lsn, ZERO_PAGE};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Values in memory at a time.
const KEYS_TOGETHER: usize = 128;

/// What became of a part.
pub enum Outcome {
    Made(FinishedLayer),
    /// It has no values.
    Empty,
    /// The records of this page cannot be applied: the part keeps its deltas.
    Hopeless(Key, ReadError),
}

/// Writes the image layer of a part at `lsn`. On an error nothing is left of it on the disk.
pub async fn make(timeline: &Arc<Timeline>, part: &Part, lsn: Lsn) -> Result<Outcome, CompactError> {
    let (tasks, disk) = (&timeline.shared.env.tasks, timeline.shared.env.disk.clone());
    let (directory, number) = (timeline.local_directory(), timeline.next_file_number());
    let create = move || LayerWriter::create(&*disk, &directory, LayerKind::Image, number);
    let mut writer = tasks.blocking("create-image", create).await?;
    let mut keys = part.keys.iter().flat_map(|keys| keys.iter());
    loop {
        let wanted: Vec<(Key, Lsn)> = keys.by_ref().take(KEYS_TOGETHER).map(|key| (key, lsn)).collect();
        if wanted.is_empty() {
            break;
        }
        yield_now().await;
        let values = match sort_out(&wanted, timeline.get_many(&wanted).await) {
            Ok(values) => values,
            Err((key, error)) => {
                discard(timeline, writer).await;
                return if is_hopeless(&error) { Ok(Outcome::Hopeless(key, error)) } else { Err(error.into()) };
            }
        };
        let write = move || {
            let result = values.iter().try_for_each(|(key, value)| writer.put(*key, lsn, ValueKind::Image, value, 0));
            (writer, result)
        };
        let (back, result) = tasks.blocking("write-image", write).await;
        if let Err(error) = result {
            discard(timeline, back).await;
            return Err(error.into());
        }
        writer = back;
    }
    if writer.is_empty() {
        discard(timeline, writer).await;
        return Ok(Outcome::Empty);
    }
    let (disk, name) = (timeline.shared.env.disk.clone(), LayerName::image(part.range.clone(), lsn));
    Ok(Outcome::Made(tasks.blocking("finish-image", move || writer.finish(&*disk, name)).await?))
}

/// The values that exist, pages of zeros as empty ones; the first error that is more than an absent value.
fn sort_out(wanted: &[(Key, Lsn)], values: Vec<Result<Bytes, ReadError>>) -> Result<Vec<(Key, Bytes)>, (Key, ReadError)> {
    let mut found = Vec::with_capacity(wanted.len());
    for ((key, _), value) in wanted.iter().zip(values) {
        match value {
            Ok(value) if value == ZERO_PAGE[..] => found.push((*key, Bytes::new())),
            Ok(value) => found.push((*key, value)),
            // A block that was never written. Its readers get the same error above the image and below it.
            Err(ReadError::Missing { .. }) => {}
            Err(error) => return Err((*key, error)),
        }
    }
    Ok(found)
}

/// Trying again would give the same.
fn is_hopeless(error: &ReadError) -> bool {
    matches!(error, ReadError::Redo { error: RedoFailure::Redo(_), .. })
}

impl From<io::Error> for CompactError {
    fn from(error: io::Error) -> CompactError {
        CompactError::Disk(error)
    }
}
