//! One self-contained HTML page of a run: a sequence chart, time down, a lane for each host, messages as arrows, faults in colour.
//!
//! ```text
//! trace lines -> chart::rows (what is shown, repeated events folded) -> render (HTML with one small SVG per row)
//! ```

mod chart;

use chart::{LANES, Row, Shape, Tone};
use sim_core::report::Report;
use std::fmt::Write as _;

/// Distance between two lanes and height of a row, in pixels.
const LANE: usize = 120;
const HEIGHT: usize = 20;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Text that is safe inside HTML and its attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page of a run, from its report, its plan, its whole trace and the command that repeats it.
pub fn render(report: &Report, plan: &str, trace: &str, repeat: &str) -> String {
    let rows = chart::rows(trace);
    let mut out = String::new();
    let title = format!("{} in {}, seed {}", report.scenario, report.world, report.seed);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n<style>{STYLE}</style></head><body>\n",
        escape(&title)
    );
    head(&mut out, report, &title, (plan, repeat));
    filters(&mut out, &rows);
    let _ = write!(out, "<div class=\"row lanes\"><span class=\"time\">ms</span><svg width=\"{0}\" height=\"26\">", LANE * LANES.len());
    for (lane, (_, name)) in LANES.iter().enumerate() {
        let _ = write!(out, "<text x=\"{}\" y=\"17\">{name}</text>", centre(lane));
    }
    out.push_str("</svg><span class=\"task\">life, task</span><span class=\"text\">what</span></div>\n<main>\n");
    rows.iter().for_each(|row| one_row(&mut out, row));
    let _ = write!(out, "</main>\n<script>{SCRIPT}</script></body></html>\n");
    out
}

fn head(out: &mut String, report: &Report, title: &str, (plan, repeat): (&str, &str)) {
    let _ = write!(out, "<header><h1>{}</h1>", escape(title));
    match &report.violation {
        Some(violation) => {
            let _ = write!(out, "<p class=\"verdict bad\"><b>{}</b> {}</p>", escape(&violation.oracle), escape(&violation.detail));
        }
        None => out.push_str("<p class=\"verdict good\">passed</p>"),
    }
    let _ = write!(
        out,
        "<p>{} events, {} ms of simulated time, digest {}. Repeat with <code>{}</code></p>",
        report.events,
        report.simulated_ms,
        report.digest,
        escape(repeat)
    );
    let plan: serde_json::Value = serde_json::from_str(plan).unwrap_or_default();
    let faults = plan["faults"].as_array().map_or(&[][..], Vec::as_slice);
    let _ = write!(
        out,
        "<details {}><summary>{} faults of the plan</summary><ol class=\"faults\">",
        if faults.len() < 12 { "open" } else { "" },
        faults.len()
    );
    for fault in faults {
        let _ = write!(out, "<li><b>{} ms</b> {}</li>", fault["at_ms"], escape(&plainly(&fault["kind"])));
    }
    let knobs = serde_json::to_string_pretty(&plan["knobs"]).unwrap_or_default();
    let _ = writeln!(out, "</ol></details><details><summary>knobs</summary><pre>{}</pre></details></header>", escape(&knobs));
}

/// What a fault of a plan is, without JSON's signs.
fn plainly(kind: &serde_json::Value) -> String {
    let Some((name, fields)) = kind.as_object().and_then(|kind| kind.iter().next()) else {
        return kind.as_str().unwrap_or_default().to_string();
    };
    let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let fields: Vec<String> = fields.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value))).collect();
    format!("{name} {}", fields.join(" "))
}

/// A box to tick for each kind of row.
fn filters(out: &mut String, rows: &[Row]) {
    out.push_str("<nav>");
    for kind in chart::KINDS {
        let count: u64 = rows.iter().filter(|row| row.kind == kind).map(|row| row.times).sum();
        if count > 0 {
            let _ = write!(out, "<label><input type=\"checkbox\" data-kind=\"{kind}\" checked> {kind} <small>{count}</small></label>");
        }
    }
    out.push_str("<button data-to=\"fault\">next fault</button><button data-to=\"violation\">violation</button>");
    out.push_str("<input type=\"search\" placeholder=\"only rows with this text\"></nav>\n");
}

fn centre(lane: usize) -> usize {
    lane * LANE + LANE / 2
}

fn one_row(out: &mut String, row: &Row) {
    let tone = match row.tone {
        Tone::Plain => "",
        Tone::Good => " good",
        Tone::Bad => " bad",
        Tone::Fault => " fault",
        Tone::Phase => " phase",
        Tone::Violation => " violation",
    };
    let _ = write!(out, "<div class=\"row{tone}\" data-kind=\"{}\" title=\"{}\">", row.kind, escape(&row.line));
    let _ = write!(out, "<span class=\"time\">{}.{:03}</span>", row.ns / 1_000_000, row.ns / 1000 % 1000);
    let _ = write!(out, "<svg width=\"{}\" height=\"{HEIGHT}\">", LANE * LANES.len());
    for lane in 0..LANES.len() {
        let class = if row.down[lane] { "life down" } else { "life" };
        let _ = write!(out, "<line class=\"{class}\" x1=\"{0}\" x2=\"{0}\" y1=\"0\" y2=\"{HEIGHT}\"/>", centre(lane));
    }
    let y = HEIGHT / 2;
    match row.shape {
        Shape::Arrow { from, to } => {
            let (x1, x2) = (centre(from), centre(to));
            let (tip, back) = if x2 > x1 { (x2 - 4, x2 - 12) } else { (x2 + 4, x2 + 12) };
            let _ = write!(
                out,
                "<line class=\"msg\" x1=\"{x1}\" x2=\"{back}\" y1=\"{y}\" y2=\"{y}\"/><path class=\"tip\" d=\"M{tip} {y} L{back} {} L{back} {} Z\"/>",
                y - 4,
                y + 4
            );
        }
        Shape::Dot(lane) => {
            let _ = write!(out, "<circle class=\"dot\" cx=\"{}\" cy=\"{y}\" r=\"4\"/>", centre(lane));
        }
        Shape::Band => {
            let _ = write!(out, "<rect class=\"band\" x=\"0\" y=\"2\" width=\"{}\" height=\"{}\"/>", LANE * LANES.len(), HEIGHT - 4);
        }
    }
    let times = if row.times > 1 { format!(" <b class=\"times\">{}x</b>", row.times) } else { String::new() };
    let _ = writeln!(
        out,
        "</svg><span class=\"task\">{}</span><span class=\"text\">{}{times}</span></div>",
        escape(&row.task),
        escape(&row.text)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim_core::report::Violation;

    #[test]
    fn a_page_shows_what_happened_and_needs_nothing_else() {
        let report = Report {
            scenario: "smoke".into(),
            world: "net".into(),
            seed: 3,
            digest: "d1".into(),
            events: 3,
            simulated_ms: 9,
            violation: Some(Violation { oracle: "PG-1".into(), detail: "page <5> is \"old\"".into() }),
            counts: Default::default(),
            checkpoints: Vec::new(),
            recent: Vec::new(),
        };
        let trace = "1000000 harness/0 - fault begin=Reset away=false\n2500000 client/0 reader-0 op id=1 ask=Page(1, 0) lsn=0/1\n3000000 client/0 reader-0 reply id=1 outcome=read-ok\n";
        let page = render(
            &report,
            r#"{"faults":[{"id":0,"at_ms":1,"kind":"reset"},{"id":1,"at_ms":2,"kind":{"crash":{"down_ms":3,"kind":"wipe"}}}],"knobs":{"run_ms":5}}"#,
            trace,
            "cargo sim run --seed 3",
        );
        assert!(page.contains("page &lt;5&gt; is &quot;old&quot;") && page.contains("<b>1 ms</b> reset<"), "{page}");
        assert!(page.contains("<code>cargo sim run --seed 3</code>"));
        assert!(page.contains("crash down_ms=3 kind=wipe"), "{page}");
        assert_eq!(page.matches("class=\"tip\"").count(), 2);
        assert_eq!(page.matches("class=\"band\"").count(), 1);
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
    }
}
