//! Redo of generic records (rmid 20), which extensions write: bytes to overwrite, then the hole becomes zeros.

use super::{Effect, Step, StepError};
use crate::pg::page::{Page, PageBytes};

pub(super) fn redo(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    let mut data = step.data();
    while !data.rest().is_empty() {
        let (at, len) = (usize::from(data.u16()?), usize::from(data.u16()?));
        let bytes = data.take(len)?;
        page.get_mut(at..at + len).ok_or(StepError::Range("changed bytes"))?.copy_from_slice(bytes);
    }
    let borders = page.borders()?;
    page[borders.lower..borders.upper].fill(0);
    Ok(Effect::Changed)
}
