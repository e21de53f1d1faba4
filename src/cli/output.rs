//! What commands print: the result to standard output, everything else to standard error.
//!
//! In: a server's JSON, or an error. Out: aligned text for people or the same JSON for programs, and an exit code that says
//! what kind of failure it was.

use serde_json::Value;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Exit codes of every command, but for `pal wal verify`, whose own are in its help. clap ends with 2 on wrong usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    NotFound = 3,
    Conflict = 4,
    Denied = 5,
    TimedOut = 6,
    Invalid = 7,
    Unreachable = 8,
    Interrupted = 130,
}

/// An error that ends a command, in words for a person.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    pub exit: Exit,
    pub message: String,
}

impl CommandError {
    pub fn new(message: impl Display) -> CommandError {
        CommandError::with(Exit::Failed, message)
    }

    pub fn with(exit: Exit, message: impl Display) -> CommandError {
        CommandError { exit, message: message.to_string() }
    }

    pub fn interrupted(signal: &str) -> CommandError {
        CommandError::with(Exit::Interrupted, format!("stopped by {signal}"))
    }

    /// Tells standard error, in the form that was asked for, and gives the code to end with.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            eprintln!("{}", serde_json::json!({ "msg": self.message }));
        } else {
            eprintln!("pal: {}", self.message);
        }
        ExitCode::from(self.exit as u8)
    }
}

pub type Outcome = Result<ExitCode, CommandError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned text for people.
    Table,
    /// What the server answered, for programs.
    Json,
}

/// In which form a command prints its result.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArgs {
    /// Form of the result.
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORM", default_value_t = Format::Table, global = true)]
    pub output: Format,
    /// Short for `-o json`.
    #[arg(long, conflicts_with = "output", global = true)]
    pub json: bool,
}

impl OutputArgs {
    pub fn is_json(self) -> bool {
        self.json || self.output == Format::Json
    }

    /// Prints `value`, or what `text` makes of it.
    pub fn print(self, value: &Value, text: impl FnOnce(&Value) -> String) -> Outcome {
        if self.is_json() {
            let json = serde_json::to_string_pretty(value).map_err(CommandError::new)?;
            return print(&format!("{json}\n"));
        }
        print(&text(value))
    }
}

/// Writes to standard output. A reader that has gone away, as `head` does, is no failure.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::new(format!("write to standard output: {error}"))),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Lines with aligned columns, the header in front.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines = vec![header.iter().map(|h| h.to_string()).collect::<Vec<_>>()];
    lines.extend(rows.iter().cloned());
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// One `name  value` line per field.
pub fn details(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// A field of an answer as a cell: nothing for null and for absent fields.
pub fn cell(value: &Value, field: &str) -> String {
    match value.get(field) {
        None | Some(Value::Null) => "-".to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A field in bytes as people read it.
pub fn size_cell(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_u64).map_or_else(|| "-".to_string(), human_bytes)
}

/// `512 B`, `1.5 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_aligned() {
        let rows = vec![vec!["a".to_string(), "12".to_string()], vec!["long name".to_string(), "-".to_string()]];
        assert_eq!(table(&["NAME", "SIZE"], &rows), "NAME       SIZE\na          12\nlong name  -\n");
        assert_eq!(table(&["NAME"], &[]), "NAME\n");
        assert_eq!(details(&[("id", "1".to_string()), ("state", "x".to_string())]), "id     1\nstate  x\n");
    }

    #[test]
    fn cells() {
        let value = serde_json::json!({ "text": "x", "none": null, "number": 7, "size": 1536 });
        for (field, want) in [("text", "x"), ("none", "-"), ("absent", "-"), ("number", "7")] {
            assert_eq!(cell(&value, field), want, "{field}");
        }
        assert_eq!((size_cell(&value, "size"), size_cell(&value, "none")), ("1.5 KiB".to_string(), "-".to_string()));
        for (bytes, want) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (u64::MAX, "16777216.0 TiB")] {
            assert_eq!(human_bytes(bytes), want);
        }
    }
}
