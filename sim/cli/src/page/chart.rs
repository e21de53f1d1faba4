//! From trace lines to the rows of the chart: which are shown, in which lane, as what, and what is folded into one.

/// Lanes from left to right, as the trace names them and as the page does.
pub const LANES: [(&str, &str); 4] = [("pg", "primary"), ("ps", "pageserver"), ("store", "object store"), ("client", "clients")];
const PG: usize = 0;
const PS: usize = 1;
const STORE: usize = 2;
const CLIENT: usize = 3;
/// Rows of a page at most, faults, phases and violations not counted: the last ones are shown.
const ROWS_MAX: usize = 4000;
/// Rows of the same sort this close to each other become one, in nanoseconds.
const FOLD_NS: u64 = 500_000_000;

/// Kinds of rows, for the filters.
pub const KINDS: [&str; 9] = ["violation", "fault", "phase", "request", "wal", "store", "node", "disk", "network"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Arrow { from: usize, to: usize },
    Dot(usize),
    Band,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    Fault,
    Phase,
    Violation,
}

/// A row of the chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub ns: u64,
    pub kind: &'static str,
    pub shape: Shape,
    pub tone: Tone,
    /// Life and task.
    pub task: String,
    pub text: String,
    /// The trace's own line.
    pub line: String,
    /// How many events it stands for.
    pub times: u64,
    /// Lanes whose machine is down.
    pub down: [bool; 4],
    /// Equal for rows that may be folded into one; empty: never.
    fold: String,
}

/// A line of the trace, cut into its fields.
struct Event<'a> {
    ns: u64,
    host: &'a str,
    life: &'a str,
    task: &'a str,
    kind: &'a str,
    rest: &'a str,
}

fn parse(line: &str) -> Option<Event<'_>> {
    let mut rest = line.trim_start();
    let mut field = || {
        let (field, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after;
        field
    };
    let ns = field().parse().ok()?;
    let (host, life) = field().split_once('/')?;
    let (task, kind) = (field(), field());
    Some(Event { ns, host, life, task, kind, rest })
}

/// The value of `key=` in the rest of a line, up to a space.
fn value<'a>(rest: &'a str, key: &str) -> Option<&'a str> {
    rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// The rows of a trace.
pub fn rows(trace: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut down = [false; 4];
    for (event, line) in trace.lines().filter_map(|line| Some((parse(line)?, line))) {
        mark_down(&event, &mut down);
        let Some(mut row) = row(&event, line) else { continue };
        row.down = down;
        let folds = |last: &Row| !row.fold.is_empty() && last.fold == row.fold && last.tone == row.tone && row.ns - last.ns <= FOLD_NS;
        match rows.last_mut().filter(|last| folds(last)) {
            Some(last) => last.times += 1,
            None => rows.push(row),
        }
    }
    bounded(rows)
}

/// Without the oldest of what is not a fault, a phase or a violation, if there is too much.
fn bounded(mut rows: Vec<Row>) -> Vec<Row> {
    let small = |row: &Row| !matches!(row.tone, Tone::Fault | Tone::Phase | Tone::Violation);
    let mut surplus = rows.iter().filter(|row| small(row)).count().saturating_sub(ROWS_MAX);
    rows.retain(|row| {
        let drop = surplus > 0 && small(row);
        surplus -= usize::from(drop);
        !drop
    });
    rows
}

fn mark_down(event: &Event<'_>, down: &mut [bool; 4]) {
    let lane = LANES.iter().position(|(host, _)| *host == event.host);
    match (lane, event.kind, value(event.rest, "op")) {
        (Some(lane), "fault", Some("crash")) => down[lane] = true,
        (Some(lane), "fault", Some("start")) => down[lane] = false,
        _ => {}
    }
}

fn row(event: &Event<'_>, line: &str) -> Option<Row> {
    let (kind, shape, tone, fold) = look(event)?;
    let text = format!("{} {}", event.kind, shortened(event.rest));
    Some(Row {
        ns: event.ns,
        kind,
        shape,
        tone,
        task: format!("{}/{} {}", event.host, event.life, event.task),
        text,
        line: line.trim_start().to_string(),
        times: 1,
        down: [false; 4],
        fold,
    })
}

/// How an event looks; `None`: it is not shown.
fn look(event: &Event<'_>) -> Option<(&'static str, Shape, Tone, String)> {
    let lane = LANES.iter().position(|(host, _)| *host == event.host);
    let (op, failed) = (value(event.rest, "op").unwrap_or_default(), value(event.rest, "error").is_some());
    let tone = if failed { Tone::Bad } else { Tone::Plain };
    let arrow = |from, to| Shape::Arrow { from, to };
    Some(match event.kind {
        "oracle" => ("violation", Shape::Band, Tone::Violation, String::new()),
        "fault" if op == "start" => ("node", Shape::Dot(lane?), Tone::Good, String::new()),
        "fault" => ("fault", lane.map_or(Shape::Band, Shape::Dot), Tone::Fault, String::new()),
        "state" => ("phase", Shape::Band, Tone::Phase, String::new()),
        "op" if event.host == "client" => ("request", arrow(CLIENT, PS), Tone::Plain, String::new()),
        "op" => ("wal", Shape::Dot(PG), Tone::Plain, "wal".to_string()),
        "reply" => {
            let outcome = value(event.rest, "outcome").or_else(|| value(event.rest, "status")).unwrap_or_default();
            let good = outcome.ends_with("ok") || outcome.starts_with('2');
            // Answers that were right say nothing new, one by one.
            let fold = if good { format!("reply {outcome}") } else { String::new() };
            ("request", arrow(PS, CLIENT), if good { Tone::Good } else { Tone::Bad }, fold)
        }
        "walsender" => ("wal", if op == "status" { arrow(PS, PG) } else { arrow(PG, PS) }, tone, format!("walsender {op}")),
        "store" => {
            let served =
                value(event.rest, "fate").is_none_or(|fate| fate == "Served") && value(event.rest, "effect").is_none_or(|e| e == "ok");
            let tone = if served { tone } else { Tone::Bad };
            let fold = if served { format!("store {op} {}", event.task) } else { String::new() };
            ("store", if op == "get" { arrow(STORE, PS) } else { arrow(PS, STORE) }, tone, fold)
        }
        "net" => ("network", Shape::Dot(lane?), tone, format!("net {op} {}", event.task)),
        // Most of a trace; only what went wrong is worth a row.
        "disk" if failed && !event.rest.contains("error=NotFound") => ("disk", Shape::Dot(lane?), Tone::Bad, format!("disk {op}")),
        "disk" | "ack" => return None,
        kind => ("node", Shape::Dot(lane.unwrap_or(PS)), tone, format!("{kind} {op}")),
    })
}

/// Long hexadecimal names are cut: the whole line is in the row's tip.
fn shortened(rest: &str) -> String {
    const LONG: usize = 20;
    let mut out = String::new();
    let mut word = String::new();
    for c in rest.chars().chain([' ']) {
        if c.is_ascii_hexdigit() {
            word.push(c);
            continue;
        }
        if word.len() > LONG {
            out.push_str(&word[..4]);
            out.push('…');
        } else {
            out.push_str(&word);
        }
        word.clear();
        out.push(c);
    }
    out.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_arrows_dots_and_bands() {
        let trace = "\
            5 harness/0 - state phase=safety\n\
            6 client/0 reader-1 op id=7 ask=Size(1) lsn=0/1\n\
            7 ps/0 upload store op=put path=a fate=ErrorAfter effect=ok\n\
            8 ps/0 main disk op=open path=/a error=NotFound\n\
            9 ps/0 main disk op=sync path=/a error=os5\n\
            10 pg/0 walsender walsender op=status write=0/1\n\
            11 ps/0 - fault op=crash kind=Wipe\n\
            12 pg/0 walsender walsender op=start lsn=0/1\n\
            13 ps/1 - fault op=start\n\
            not a line\n\
            14 harness/0 - oracle violated=PG-1 detail=x y\n";
        let rows = rows(trace);
        let looks: Vec<_> = rows.iter().map(|row| (row.kind, row.shape, row.tone, row.down[PS])).collect();
        let arrow = |from, to| Shape::Arrow { from, to };
        assert_eq!(
            looks,
            [
                ("phase", Shape::Band, Tone::Phase, false),
                ("request", arrow(CLIENT, PS), Tone::Plain, false),
                ("store", arrow(PS, STORE), Tone::Bad, false),
                ("disk", Shape::Dot(PS), Tone::Bad, false),
                ("wal", arrow(PS, PG), Tone::Plain, false),
                ("fault", Shape::Dot(PS), Tone::Fault, true),
                ("wal", arrow(PG, PS), Tone::Plain, true),
                ("node", Shape::Dot(PS), Tone::Good, false),
                ("violation", Shape::Band, Tone::Violation, false),
            ]
        );
    }

    #[test]
    fn what_repeats_itself_is_one_row_until_time_passes() {
        let line = |ns: u64| format!("{ns} pg/0 walsender walsender op=status write=0/1\n");
        let rows = rows(&[line(1), line(2), line(3), line(3 + FOLD_NS), line(4 + 2 * FOLD_NS)].concat());
        assert_eq!(rows.iter().map(|row| (row.ns, row.times)).collect::<Vec<_>>(), [(1, 3), (3 + FOLD_NS, 1), (4 + 2 * FOLD_NS, 1)]);
    }

    #[test]
    fn faults_stay_when_a_page_is_full() {
        let mut trace = "1 harness/0 - fault begin=Reset\n".to_string();
        (0..ROWS_MAX + 10).for_each(|n| trace += &format!("{} client/0 reader-0 op id={n}\n", n + 2));
        let rows = rows(&trace);
        assert_eq!((rows.len(), rows[0].kind, rows[1].ns), (ROWS_MAX + 1, "fault", 12));
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(shortened("timeline=30bb5d475097d760c25f91fcea53b801 lsn=0/10000A0"), "timeline=30bb… lsn=0/10000A0");
    }
}
