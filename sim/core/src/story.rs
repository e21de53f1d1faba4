//! A run as a person tells it: who asked what and was answered what, what failed, and which states the machines went through.
//!
//! In: the lines of a trace. Out: one line per thing that happened, in the order of their ends, with simulated milliseconds and
//! host/life. Disk, network and store are left out. Ids are replaced by names, so that a story says the same with other ids.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Tells the story of a whole trace.
pub fn tell(lines: &[String]) -> String {
    let mut teller = Teller::default();
    lines.iter().filter_map(|line| Event::parse(line)).for_each(|event| teller.hear(&event));
    teller.end()
}

/// A line of a trace.
struct Event<'a> {
    ms: u64,
    host: &'a str,
    task: &'a str,
    kind: &'a str,
    detail: &'a str,
}

impl<'a> Event<'a> {
    fn parse(line: &'a str) -> Option<Event<'a>> {
        let mut parts = line.trim_start().splitn(5, ' ');
        let ms = parts.next()?.parse::<u64>().ok()? / 1_000_000;
        Some(Event { ms, host: parts.next()?, task: parts.next()?, kind: parts.next()?, detail: parts.next()? })
    }

    /// The value of `key=value`, up to the next space.
    fn get(&self, key: &str) -> Option<&'a str> {
        let value = |word: &'a str| word.strip_prefix(key)?.strip_prefix('=');
        self.detail.split(' ').find_map(value)
    }

    /// All behind `key=`.
    fn rest(&self, key: &str) -> Option<&'a str> {
        self.detail.split_once(&format!("{key}=")).map(|(_, rest)| rest)
    }
}

#[derive(Default)]
struct Teller {
    told: String,
    names: Names,
    /// Operations that wait for their answer: since when, and what was asked.
    asked: BTreeMap<u32, (u64, String)>,
    /// Why the request of a task was refused.
    refused: BTreeMap<String, String>,
    /// Outcomes of the clients of a storm so far.
    storms: BTreeMap<u32, BTreeMap<String, u32>>,
    /// What a task said last of a kind: said again it is left out.
    last: BTreeMap<(String, String), String>,
}

impl Teller {
    fn hear(&mut self, event: &Event<'_>) {
        match event.kind {
            "op" => self.asks(event),
            "reply" => self.answered(event),
            // The plan's knobs are not what happened.
            "state" => self.say(event, event.detail.split(" knobs=").next().unwrap_or_default()),
            "walsender" if event.get("op") == Some("status") => {}
            "fault" | "node" | "node-started" | "timeline-created" | "mark" | "oracle" | "flush" | "index" | "log" | "walsender" => {
                self.say(event, &format!("{} {}", event.kind, event.detail));
            }
            "receiver" | "ingest" => self.say_once(event, &format!("{} {}", event.kind, event.detail)),
            _ => {}
        }
    }

    fn asks(&mut self, event: &Event<'_>) {
        let Some(id) = event.get("id").and_then(|id| id.parse().ok()) else { return };
        let what = event.detail.split_once(' ').map_or("", |(_, what)| what);
        if let (Some(number), Some(timeline)) = (event.get("branch"), event.get("timeline")) {
            self.names.give(timeline, format!("branch-{number}"));
        }
        if event.get("reader").is_some() || event.get("storm").is_some() {
            let what = self.names.instead_of_ids(what);
            self.asked.insert(id, (event.ms, what));
        } else {
            self.say(event, &format!("#{id} {what}"));
        }
    }

    fn answered(&mut self, event: &Event<'_>) {
        let id = event.get("id").and_then(|id| id.parse::<u32>().ok());
        let outcome = event.get("outcome").unwrap_or_default();
        if let (Some(id), Some(_)) = (id, event.get("visit")) {
            self.visited(event, id, outcome);
        } else if let Some((since, what)) = id.and_then(|id| self.asked.remove(&id)) {
            let why = self.refused.remove(event.task).map_or(String::new(), |why| format!(": {why}"));
            self.say(event, &format!("#{} {what} -> {outcome}{why} ({} ms)", id.unwrap_or_default(), event.ms - since));
        } else if let Some(why) = event.rest("refused").or(event.rest("broken")) {
            self.refused.entry(event.task.to_string()).or_insert_with(|| why.to_string());
            if !event.task.starts_with("reader-") && !event.task.starts_with("storm-") {
                self.say_once(event, &format!("{}: {}", event.task, event.detail));
            }
        } else if event.get("request").is_some() {
            // What a timeline says of itself changes all the time.
            let shown = event.detail.split(" body=last_record=").next().unwrap_or_default();
            self.say_once(event, &format!("{}: {shown}", event.task));
        }
    }

    fn visited(&mut self, event: &Event<'_>, id: u32, outcome: &str) {
        let outcomes = self.storms.entry(id).or_default();
        *outcomes.entry(outcome.to_string()).or_default() += 1;
        let visits = outcomes.values().sum::<u32>();
        let counted: Vec<String> = outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
        if self.asked.get(&id).is_none_or(|(_, what)| *what != format!("storm={visits}")) {
            return;
        }
        if let Some((since, what)) = self.asked.remove(&id) {
            self.say(event, &format!("#{id} {what} -> {} ({} ms)", counted.join(", "), event.ms - since));
        }
    }

    fn say_once(&mut self, event: &Event<'_>, text: &str) {
        let key = (format!("{} {}", event.host, event.task), event.kind.to_string());
        if self.last.get(&key).is_none_or(|last| last != text) {
            self.last.insert(key, text.to_string());
            self.say(event, text);
        }
    }

    fn say(&mut self, event: &Event<'_>, text: &str) {
        let text = self.names.instead_of_ids(text);
        let _ = writeln!(self.told, "{:>6} {:<9} {}", event.ms, event.host, text.trim_end());
    }

    /// The story, and at its end what never was answered.
    fn end(mut self) -> String {
        for (id, (ms, what)) in std::mem::take(&mut self.asked) {
            let _ = writeln!(self.told, "   end client/0  #{id} {what} at {ms} -> no answer");
        }
        self.told
    }
}

/// Names for tenants and timelines.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn give(&mut self, id: &str, name: String) {
        self.0.insert(id.to_string(), name);
    }

    /// The text with a name in the place of every id. The first timeline of a run is its root.
    fn instead_of_ids(&mut self, text: &str) -> String {
        let mut told = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
            let (before, from) = rest.split_at(start);
            let length = from.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(from.len());
            let (word, behind) = from.split_at(length);
            told.push_str(before);
            if word.len() == 32 {
                let tenant = ["tenant/", "tenant=", "tenant "].iter().any(|role| told.ends_with(role));
                let others = self.0.values().filter(|name| *name != "tenant").count();
                let new = || match (tenant, others) {
                    (true, _) => "tenant".to_string(),
                    (false, 0) => "root".to_string(),
                    (false, others) => format!("timeline-{others}"),
                };
                told.push_str(self.0.entry(word.to_string()).or_insert_with(new));
            } else {
                told.push_str(word);
            }
            rest = behind;
        }
        told + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "f3aa516aa7aabe1c63f4bde51441f764";
    const ROOT: &str = "bcae76960e62364f26bf07ad4a93509a";
    const BRANCH: &str = "0123456789abcdef0123456789abcdef";

    fn check(lines: &[&str], story: &[&str]) {
        let lines: Vec<String> =
            lines.iter().map(|line| line.replace("TENANT", TENANT).replace("ROOT", ROOT).replace("BRANCH", BRANCH)).collect();
        assert_eq!(tell(&lines).lines().collect::<Vec<_>>(), story);
    }

    #[test]
    fn a_question_is_told_with_its_answer() {
        check(
            &[
                "    800000424 client/0 reader-0 op id=3 reader=0 ask=Page(1663/5/16384, 1) lsn=0/10000A0 since=0/10000A0",
                "    800000500 ps/0 sync-wal disk op=sync path=/data/wal",
                "    800000574 harness/0 primary-load op id=0 wal_end=0/1000120",
                "    830000000 client/0 reader-0 reply refused=not yet",
                "    834952024 client/0 reader-0 reply id=3 outcome=read-refused",
                "    900000000 client/0 reader-0 op id=4 reader=0 burst=7",
            ],
            &[
                "   800 harness/0 #0 wal_end=0/1000120",
                "   834 client/0  #3 reader=0 ask=Page(1663/5/16384, 1) lsn=0/10000A0 since=0/10000A0 -> read-refused: not yet (34 ms)",
                "   end client/0  #4 reader=0 burst=7 at 900 -> no answer",
            ],
        );
    }

    #[test]
    fn ids_become_names_and_what_is_said_again_is_left_out() {
        check(
            &[
                "      3000336 client/0 main reply request=GET /v1/tenant/TENANT/timeline/ROOT status=404 body={\"msg\":\"tenant TENANT\"}",
                "      4000000 client/0 main reply request=GET /v1/tenant/TENANT/timeline/ROOT status=200 body=last_record=\"0/8\" disk=\"0/8\"",
                "      5000000 client/0 main reply request=GET /v1/tenant/TENANT/timeline/ROOT status=200 body=last_record=\"0/9\" disk=\"0/9\"",
                "      6000000 client/0 branch-3 op id=9 branch=3 timeline=BRANCH of=ROOT lsn=0/8",
                "      7000000 ps/0 flush flush timeline=BRANCH lsn=0/1005640",
            ],
            &[
                "     3 client/0  main: request=GET /v1/tenant/tenant/timeline/root status=404 body={\"msg\":\"tenant tenant\"}",
                "     4 client/0  main: request=GET /v1/tenant/tenant/timeline/root status=200",
                "     6 client/0  #9 branch=3 timeline=branch-3 of=root lsn=0/8",
                "     7 ps/0      flush timeline=branch-3 lsn=0/1005640",
            ],
        );
    }

    #[test]
    fn a_storm_is_told_by_its_numbers() {
        check(
            &[
                "            0 harness/0 - state phase=setup knobs={\"run_ms\":3000}",
                "      8000000 client/0 storms op id=5 storm=3",
                "      9000000 client/0 storm-5-0 reply id=5 visit=0 outcome=silent",
                "     10000000 client/0 storm-5-1 reply id=5 visit=1 outcome=read-ok",
                "     11000000 client/0 storm-5-2 reply id=5 visit=2 outcome=silent",
            ],
            &["     0 harness/0 phase=setup", "    11 client/0  #5 storm=3 -> read-ok 1, silent 2 (3 ms)"],
        );
    }
}
