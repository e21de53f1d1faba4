//! Redo of sequence records (rmid 15): the one page of a sequence is rebuilt from the record.

use super::{Effect, Step, StepError};
use crate::pg::page::{AddMode, Page, PageBytes};
use crate::types::PAGE_SIZE;

/// Spc, db and rel stand before the tuple in the main data.
const LOCATOR: usize = 12;
/// In the special area of the page. Source: PostgreSQL 15 `commands/sequence.c`.
const MAGIC: u32 = 0x1717;

pub(super) fn redo(step: Step<'_, '_>, page: &mut PageBytes) -> Result<Effect, StepError> {
    if step.info() != 0 {
        return Err(StepError::Unhandled);
    }
    let mut main = step.main();
    main.take(LOCATOR)?;
    page.init(4);
    page.set_u32_at(PAGE_SIZE - 8, MAGIC);
    page.add_tuple(main.rest(), 1, AddMode::Insert)?;
    Ok(Effect::Changed)
}
