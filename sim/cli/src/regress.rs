//! `cargo sim regress`: plans of bugs that were found once, each with a sentence on what it was. They must pass for ever.
//!
//! `scenarios/regressions/index.toml` lists them. The plan of a planted bug must fail with the bug switched on, by the oracle
//! that is named: that shows that it still reaches what it was kept for.

#![expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]

use crate::backend::{self, Ask, Backends, Build};
use crate::sweep::print_failure;
use crate::worlds::{self, Loaded};
use crate::{Failure, RegressArgs};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::PathBuf;

/// One regression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// File of the plan, beside the index.
    pub plan: String,
    pub world: String,
    /// What was violated.
    pub oracle: String,
    /// The planted bug that brings it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<String>,
    /// One sentence on what it was.
    pub what: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    #[serde(default)]
    regression: Vec<Entry>,
}

fn folder() -> PathBuf {
    worlds::root().join("scenarios/regressions")
}

fn index_file() -> PathBuf {
    folder().join("index.toml")
}

fn parse(text: &str) -> Result<Vec<Entry>, Failure> {
    let index: Index = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::Harness(format!("{} line {line}: {}", index_file().display(), error.message()))
    })?;
    Ok(index.regression)
}

fn entries() -> Result<Vec<Entry>, Failure> {
    match std::fs::read_to_string(index_file()) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::Harness(format!("read {}: {error}", index_file().display()))),
    }
}

/// Adds an entry to the index, or replaces the one of the same plan. Gives where the plan belongs.
pub fn add(entry: &Entry) -> Result<PathBuf, Failure> {
    let mut all = entries()?;
    all.retain(|other| other.plan != entry.plan);
    all.push(entry.clone());
    all.sort_by(|a, b| a.plan.cmp(&b.plan));
    let written = std::fs::create_dir_all(folder()).and_then(|()| std::fs::write(index_file(), print(&all)));
    written.map_err(|error| Failure::Harness(format!("write {}: {error}", index_file().display())))?;
    Ok(folder().join(&entry.plan))
}

fn print(entries: &[Entry]) -> String {
    let mut text =
        "# Plans of bugs that were found once, made small: `cargo sim regress` runs them all, `cargo sim shrink` adds to them.\n"
            .to_string();
    for entry in entries {
        let quoted = |value: &str| serde_json::Value::from(value).to_string();
        let _ = write!(
            text,
            "\n[[regression]]\nplan = {}\nworld = {}\noracle = {}\n",
            quoted(&entry.plan),
            quoted(&entry.world),
            quoted(&entry.oracle)
        );
        if let Some(bug) = &entry.planted {
            let _ = writeln!(text, "planted = {}", quoted(bug));
        }
        let _ = writeln!(text, "what = {}", quoted(&entry.what));
    }
    text
}

pub fn run(args: &RegressArgs) -> Result<(), Failure> {
    let entries = entries()?;
    let plain = backend::build(Build::default())?;
    let planted = if entries.iter().any(|entry| entry.planted.is_some()) {
        Some(backend::build(Build { planted: true, debug: false })?)
    } else {
        None
    };
    let mut failed = 0;
    for entry in &entries {
        let passes = one(entry, &plain, None)?;
        let brought_back = match (&entry.planted, &planted) {
            (Some(bug), Some(planted)) => one(entry, planted, Some(bug))?,
            _ => true,
        };
        failed += u64::from(!passes || !brought_back);
        let verdict = if passes && brought_back { "ok" } else { "FAILED" };
        println!("{verdict:<6} {:<46} {:<6} {}", entry.plan, entry.world, entry.what);
    }
    if args.json {
        println!("{}", serde_json::json!({ "regressions": entries.len(), "failed": failed, "entries": entries }));
    } else {
        println!("{} regressions, {failed} failed", entries.len());
    }
    if failed > 0 { Err(Failure::Violated) } else { Ok(()) }
}

/// Whether the plan does what it must: pass, or with its bug violate its oracle.
fn one(entry: &Entry, backends: &Backends, planted: Option<&str>) -> Result<bool, Failure> {
    let path = folder().join(&entry.plan);
    let loaded: Loaded = worlds::of_plan(&path)?;
    let ask = Ask { scenario: loaded.path, seeds: 0..1, plan: Some(path.clone()), planted: planted.map(str::to_string), ..Ask::default() };
    let report = backends.of(&entry.world)?.one(&ask)?.0;
    match (planted, &report.violation) {
        (None, None) => Ok(true),
        (None, Some(_)) => {
            print_failure(&report, &ask);
            Ok(false)
        }
        (Some(_), Some(violation)) if violation.oracle == entry.oracle => Ok(true),
        (Some(bug), other) => {
            let found = other.as_ref().map_or("nothing", |violation| violation.oracle.as_str());
            println!("{} with the planted bug {bug} violates {found}, not {}", path.display(), entry.oracle);
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_read_as_it_is_written() {
        let entry = |plan: &str, planted: Option<&str>| Entry {
            plan: plan.to_string(),
            world: "net".to_string(),
            oracle: "PG-1".to_string(),
            planted: planted.map(str::to_string),
            what: "a \"page\" \\ was old".to_string(),
        };
        let all = [entry("a.plan", None), entry("b.plan", Some("stale"))];
        assert_eq!(parse(&print(&all)).ok().as_deref(), Some(&all[..]));
        let Err(Failure::Harness(message)) = parse("\n[[regression]]\nplam = 1\n") else { panic!("is wrong") };
        assert!(message.contains("index.toml line 3") && message.contains("plam"), "{message}");
    }
}
