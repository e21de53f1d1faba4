//! Figures and how they are printed: one line each, or one JSON object each.

use serde::Serialize;
use std::sync::Mutex;

/// What the ratio must keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: String,
    pub ours: f64,
    pub peer: f64,
    pub unit: &'static str,
    pub ratio: f64,
    pub bound: String,
    pub pass: bool,
    pub note: String,
}

/// Prints figures as they come and remembers whether all kept their bound.
pub struct Report {
    json: bool,
    figures: Mutex<Vec<Figure>>,
}

impl Report {
    pub fn new(json: bool) -> Report {
        if !json {
            println!("{:<44} {:>14} {:>14} {:<10} {:>8}  {:<9}", "figure", "ours", "peer", "unit", "ratio", "bound");
        }
        Report { json, figures: Mutex::default() }
    }

    /// Adds ours against a peer's (or a limit's) value in the same unit.
    pub fn add(&self, name: &str, ours: f64, peer: f64, unit: &'static str, bound: Bound, note: impl Into<String>) {
        let ratio = ours / peer;
        let (text, pass) = match bound {
            Bound::AtLeast(least) => (format!(">= {least}"), ratio >= least),
            Bound::AtMost(most) => (format!("<= {most}"), ratio <= most),
        };
        let figure = Figure { name: name.to_string(), ours, peer, unit, ratio, bound: text, pass, note: note.into() };
        if self.json {
            println!("{}", serde_json::to_string(&figure).expect("figures are plain data"));
        } else {
            let verdict = if pass { "pass" } else { "FAIL" };
            println!(
                "{:<44} {:>14} {:>14} {:<10} {:>8.3}  {:<9} {verdict}  {}",
                figure.name,
                number(ours),
                number(peer),
                unit,
                ratio,
                figure.bound,
                figure.note
            );
        }
        self.figures.lock().expect("no panics while printing").push(figure);
    }

    pub fn all_pass(&self) -> bool {
        self.figures.lock().expect("no panics while printing").iter().all(|f| f.pass)
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
