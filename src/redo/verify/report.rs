//! What the oracles found: counts per resource manager and opcode, and the first differences in detail.

use crate::pg::rmgr::names::{record_name, rmgr_name};
use crate::pg::version::PgVersion;
use crate::types::{Key, Lsn};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Differences kept in detail; all are counted.
const DETAILS_MAX: usize = 50;

/// Counts of one opcode. A step is one record on one of its blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub records: u64,
    /// Steps whose result was compared with the record's image.
    pub compared: u64,
    /// Steps that differed or failed.
    pub mismatched: u64,
    /// Steps without a redo routine.
    pub unhandled: u64,
    /// Steps without a known base, or whose record shows no image to compare with.
    pub skipped: u64,
    /// Steps whose image is there to be restored, not to be compared.
    pub restored: u64,
    /// Page LSNs after a step, checked against the next image of the block.
    pub lsn_compared: u64,
    pub lsn_differs: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.compared += other.compared;
        self.mismatched += other.mismatched;
        self.unhandled += other.unhandled;
        self.skipped += other.skipped;
        self.restored += other.restored;
        self.lsn_compared += other.lsn_compared;
        self.lsn_differs += other.lsn_differs;
    }
}

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub rmid: u8,
    /// High nibble of the info byte.
    pub opcode: u8,
    pub name: String,
    #[serde(flatten)]
    pub counts: Counts,
}

/// One step that did not come out as the record's image says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub oracle: char,
    pub lsn: Lsn,
    pub rmid: u8,
    pub opcode: u8,
    /// Block, as its key prints.
    pub page: String,
    pub what: String,
}

/// The result of both oracles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub records: u64,
    pub bytes: u64,
    /// Each record in isolation, on the image of the record before.
    pub isolated: Vec<Row>,
    /// Each block replayed as one chain on our own pages.
    pub chained: Vec<Row>,
    pub differences: Vec<Difference>,
}

/// (rmid, opcode)
pub(super) type Op = (u8, u8);

/// Collects a [`Report`].
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub records: u64,
    pub bytes: u64,
    pub isolated: BTreeMap<Op, Counts>,
    pub chained: BTreeMap<Op, Counts>,
    differences: Vec<Difference>,
}

impl Tally {
    pub fn counts(&mut self, oracle: char, op: Op) -> &mut Counts {
        if oracle == 'A' { self.isolated.entry(op).or_default() } else { self.chained.entry(op).or_default() }
    }

    pub fn difference(&mut self, oracle: char, lsn: Lsn, op: Op, key: Key, what: String) {
        self.counts(oracle, op).mismatched += 1;
        if self.differences.len() < DETAILS_MAX {
            let page = format!("{key:?}");
            self.differences.push(Difference { oracle, lsn, rmid: op.0, opcode: op.1, page, what });
        }
    }

    pub fn report(self, version: PgVersion) -> Report {
        let name = |rmid, opcode| format!("{}/{}", rmgr_name(rmid), record_name(rmid, opcode, version));
        let rows = |counts: BTreeMap<Op, Counts>| {
            let row = |((rmid, opcode), counts)| Row { rmid, opcode, name: name(rmid, opcode), counts };
            counts.into_iter().map(row).collect()
        };
        Report {
            records: self.records,
            bytes: self.bytes,
            isolated: rows(self.isolated),
            chained: rows(self.chained),
            differences: self.differences,
        }
    }
}

impl Report {
    /// Sums over both oracles.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.isolated.iter().chain(&self.chained).for_each(|row| total.add(&row.counts));
        total
    }

    /// How many records of an opcode were seen.
    pub fn records_of(&self, rmid: u8, opcode: u8) -> u64 {
        self.isolated.iter().filter(|row| (row.rmid, row.opcode) == (rmid, opcode)).map(|row| row.counts.records).sum()
    }

    /// A table for people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let head = ["records", "compared", "mismatched", "unhandled", "skipped", "restored", "lsn ok", "lsn differs"];
        for (title, rows) in [("each record in isolation", &self.isolated), ("chains", &self.chained)] {
            let _ = write!(out, "{title:<32}");
            for h in head {
                let _ = write!(out, "{h:>12}");
            }
            out.push('\n');
            for row in rows {
                let c = &row.counts;
                let cells = [
                    c.records,
                    c.compared,
                    c.mismatched,
                    c.unhandled,
                    c.skipped,
                    c.restored,
                    c.lsn_compared - c.lsn_differs,
                    c.lsn_differs,
                ];
                let _ = write!(out, "{:<32}", row.name);
                for n in cells {
                    let _ = write!(out, "{n:>12}");
                }
                out.push('\n');
            }
        }
        for d in &self.differences {
            let _ = writeln!(out, "oracle {} at {} rmgr {} opcode {:02X} {}: {}", d.oracle, d.lsn, d.rmid, d.opcode, d.page, d.what);
        }
        out
    }
}
