//! Rules about the source text that no compiler checks: floors, seams, sizes, names, and documents that agree with the code.
//!
//! In: the files of the workspace. Out: a list of offences with file and line. The rules are said in docs/architecture.md.

#![expect(clippy::disallowed_methods, reason = "reads the workspace's own source files")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library, lowest first: each may import itself and what stands before it.
const FLOORS: [&str; 23] = [
    "types",
    "limits",
    "pg",
    "io_abstraction",
    "config",
    "observe",
    "tls",
    "auth",
    "layer",
    "redo",
    "replication",
    "postgres",
    "control_plane",
    "remote",
    "timeline",
    "export",
    "wal",
    "tenant",
    "page_service",
    "http",
    "node",
    "cli",
    "main",
];

/// Folders without effects: no seam, no async.
const PURE: [&str; 3] = ["src/types/", "src/pg/", "src/layer/format/"];

/// Files that may be longer than [`LINES_MAX`], each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];
const LINES_MAX: usize = 800;

/// Where source, tests and documents are.
const ROOTS: [&str; 10] = ["src", "sim", "tests", "docs", "scenarios", "benches", "fuzz", "snapshots", ".ci", ".cargo"];

/// This file names what it forbids.
const SELF: &str = "tests/tidy.rs";

/// A text file of the workspace.
struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their numbers, comments cut off (a `//` within a text of the program cuts too, which hides nothing here).
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(n, line)| (n + 1, line.split_once("//").map_or(line, |(code, _)| code)))
    }

    /// [`Source::code`] up to the unit tests at the end of the file; nothing of a file of tests.
    fn product_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("tests.rs") || self.path.ends_with("/testing.rs") || !self.path.starts_with("src/");
        let lines: Vec<&str> = self.text.lines().collect();
        let starts_tests = |w: &[&str]| w[0].trim() == "#[cfg(test)]" && w[1].starts_with("mod ") && w[1].ends_with('{');
        let end = lines.windows(2).position(starts_tests).unwrap_or(lines.len());
        self.code().take(if is_test { 0 } else { end })
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match path.is_dir() {
            true if path.ends_with("target") => {}
            true => walk(&path, into),
            false => into.push(path),
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// Every text file of the workspace, in order.
fn sources() -> Vec<Source> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(root()).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_file() && !p.ends_with(".git")).collect();
    ROOTS.iter().for_each(|name| walk(&root().join(name), &mut paths));
    paths.sort();
    let read = |path: &PathBuf| Some(Source { path: relative(path), text: fs::read_to_string(path).ok()? });
    let sources: Vec<Source> = paths.iter().filter(|p| !p.ends_with("Cargo.lock")).filter_map(read).collect();
    assert!(sources.iter().any(|s| s.path == "src/lib.rs") && sources.iter().any(|s| s.path == SELF), "the workspace was not found");
    sources
}

fn rust() -> Vec<Source> {
    sources().into_iter().filter(Source::is_rust).collect()
}

/// Fails with all offences at once.
fn report(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Positions of `needle` where no identifier goes on before or behind it.
fn words<'a>(line: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(needle).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back().is_some_and(is_word);
        let behind = line[at + needle.len()..].chars().next().is_some_and(is_word);
        !before && !behind
    })
}

/// The module of the library that a file belongs to.
fn module(path: &str) -> Option<&str> {
    path.strip_prefix("src/")?.split('/').next().map(|name| name.trim_end_matches(".rs")).filter(|name| *name != "lib")
}

/// First path segments behind `crate::` in a line, those of `crate::{a, b::c}` included.
fn imports(line: &str) -> Vec<String> {
    let first = |text: &str| text.trim().chars().take_while(|c| is_word(*c)).collect::<String>();
    let mut found = Vec::new();
    for (at, crate_path) in line.match_indices("crate::") {
        if line[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        match line[at + crate_path.len()..].strip_prefix('{') {
            Some(group) => found.extend(group.trim_end_matches(['}', ';']).split(',').map(first)),
            None => found.push(first(&line[at + crate_path.len()..])),
        }
    }
    found
}

#[test]
fn imports_go_down_the_floors() {
    let floor = |name: &str| FLOORS.iter().position(|f| *f == name);
    let mut offences = Vec::new();
    for source in rust() {
        let Some(own) = module(&source.path) else { continue };
        let Some(own_floor) = floor(own) else {
            offences.push(format!("{}: module {own} has no floor; add it to FLOORS", source.path));
            continue;
        };
        for (n, line) in source.code() {
            for name in imports(line) {
                // Macros live at the top of the crate: the one there is belongs to the seams.
                let name = if ["planted", "buggify"].contains(&name.as_str()) { "io_abstraction" } else { name.as_str() };
                if floor(name).is_none_or(|f| f > own_floor) {
                    offences.push(format!("{}:{n}: {own} imports {name}, which is above it", source.path));
                }
            }
        }
    }
    report("imports go down only, in the order of FLOORS:", &offences);
}

#[test]
fn pure_folders_have_no_effects() {
    let mut offences = Vec::new();
    for source in rust().iter().filter(|s| PURE.iter().any(|folder| s.path.starts_with(folder))) {
        for (n, line) in source.product_code() {
            if ["io_abstraction", "async", "tokio"].iter().any(|name| words(line, name).next().is_some()) {
                offences.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    report("these folders are pure, without seams or async:", &offences);
}

#[test]
fn only_the_program_and_tests_name_the_real_world() {
    let mut offences = Vec::new();
    for source in rust() {
        let allowed = ["src/main.rs", "src/cli/", "src/io_abstraction/"].iter().any(|p| source.path.starts_with(p));
        for (n, line) in source.product_code().filter(|_| !allowed) {
            if line.contains("io_abstraction") && words(line, "real").next().is_some()
                || words(line, "real").any(|at| line[at..].starts_with("real::"))
            {
                offences.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    report("only main and cli choose the real seams:", &offences);
}

#[test]
fn the_product_does_not_know_the_simulator() {
    let mut offences = Vec::new();
    for source in rust() {
        for (n, line) in source.product_code() {
            if ["sim", "sim_core", "madsim", "turmoil"].iter().any(|name| words(line, name).next().is_some()) {
                offences.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    report("nothing under src/ names the simulator:", &offences);
}

#[test]
fn files_are_of_readable_size_and_say_what_they_are() {
    let mut offences = Vec::new();
    for source in rust() {
        let lines = source.text.lines().count();
        let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > LINES_MAX && !excused {
            offences.push(format!("{}: {lines} lines; look for the second noun inside, or give a reason in LONG_FILES", source.path));
        }
        if lines <= LINES_MAX && excused {
            offences.push(format!("{}: {lines} lines; take it off LONG_FILES", source.path));
        }
        if !source.text.starts_with("//!") {
            offences.push(format!("{}: does not begin with what it is", source.path));
        }
    }
    report("file sizes and headers:", &offences);
}

#[test]
fn select_is_biased() {
    let mut offences = Vec::new();
    for source in rust().iter().filter(|s| s.path != SELF) {
        let lines: Vec<(usize, &str)> = source.code().collect();
        for (i, (n, line)) in lines.iter().enumerate() {
            let Some(at) = words(line, "select").find(|at| line[*at..].starts_with("select!")) else { continue };
            let here = line[at..].split_once('{').map_or("", |(_, rest)| rest.trim());
            let first = if here.is_empty() { lines.get(i + 1).map_or("", |(_, next)| next.trim()) } else { here };
            if !first.starts_with("biased;") {
                offences.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    report("the arms of a select are tried in order, so that runs repeat: write `biased;`", &offences);
}

#[test]
fn names_say_what_things_are() {
    let vague = ["Manager", "Helper", "Helpers", "Util", "Utils"];
    let mut offences = Vec::new();
    for source in rust() {
        let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if vague.iter().any(|v| stem.ends_with(&v.to_lowercase())) {
            offences.push(format!("{}: a file name that says nothing", source.path));
        }
        for (n, line) in source.code() {
            let mut tokens = line.split(|c: char| !is_word(c)).filter(|t| !t.is_empty());
            let declares = tokens.any(|t| ["struct", "enum", "trait", "type", "mod"].contains(&t));
            let name = tokens.next().unwrap_or_default();
            if declares && vague.iter().any(|v| name.ends_with(v) || name == v.to_lowercase()) {
                offences.push(format!("{}:{n}: {name}", source.path));
            }
        }
    }
    report("name the domain's noun instead:", &offences);
}

#[test]
fn nothing_is_left_open() {
    let words_of_debt = ["TODO", "FIXME", "XXX", "unimplemented!", "todo!", "#[ignore"];
    let mut offences = Vec::new();
    for source in sources().iter().filter(|s| s.path != SELF) {
        for (n, line) in source.text.lines().enumerate() {
            let found = words_of_debt.iter().find(|word| match word.chars().all(is_word) {
                true => words(line, word).next().is_some(),
                false => line.contains(**word),
            });
            if let Some(word) = found {
                offences.push(format!("{}:{}: {word}", source.path, n + 1));
            }
        }
    }
    report("finish it, or leave it out:", &offences);
}

#[test]
fn no_path_of_one_machine() {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|s| s.path != SELF) {
        for (n, line) in source.text.lines().enumerate() {
            for path in ["/work", "/root", "/home", "/tmp/wt", "/tmp/target", "/tmp/bin"] {
                // A part of a longer path or word is something else.
                let starts = |at: usize| !line[..at].chars().next_back().is_some_and(|c| is_word(c) || ".}>*~$-".contains(c));
                if words(line, path)
                    .chain(line.match_indices(path).map(|m| m.0))
                    .any(|at| starts(at) && !line[at + path.len()..].chars().next().is_some_and(is_word))
                {
                    offences.push(format!("{}:{}: {path}", source.path, n + 1));
                }
            }
        }
    }
    report("the repository works on any machine:", &offences);
}

#[test]
fn snapshots_are_at_home_and_accepted() {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    let names = paths.iter().map(|p| relative(p)).filter(|p| !p.starts_with("target"));
    let stray =
        |p: &String| p.ends_with(".snap") && !p.starts_with("snapshots/") || p.ends_with(".snap.new") || p.ends_with(".pending-snap");
    report("snapshots live under snapshots/, reviewed:", &names.clone().filter(stray).collect::<Vec<_>>());
    let scenario = |p: &String| {
        let name = p.strip_prefix("snapshots/simulation/")?.split_once('/')?.1.strip_suffix(".snap")?;
        Some(root().join("scenarios").join(format!("{name}.toml")))
    };
    let orphans = names.filter(|p| scenario(p).is_some_and(|scenario| !scenario.exists()));
    report("stories of scenarios that are gone:", &orphans.collect::<Vec<_>>());
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| is_word(*c) || *c == '-').collect()
}

/// Targets of the links in a Markdown text, with their line numbers. Blocks of code are passed over.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (n, line) in text.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        found.extend(targets.filter(|_| !in_code).map(|(target, _)| (n + 1, target.to_string())));
    }
    found
}

#[test]
fn links_between_documents_resolve() {
    let sources = sources();
    let by_path: BTreeMap<&str, &Source> = sources.iter().map(|s| (s.path.as_str(), s)).collect();
    let mut offences = Vec::new();
    let mut count = 0;
    for source in sources.iter().filter(|s| s.path.ends_with(".md")) {
        for (n, link) in links(&source.text) {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (file, heading) = link.split_once('#').map_or((link.as_str(), None), |(file, heading)| (file, Some(heading)));
            let mut parts: Vec<&str> = source.path.split('/').collect();
            if file.is_empty() {
                parts.push(".");
            }
            parts.pop();
            for part in file.split('/').filter(|p| !p.is_empty() && *p != ".") {
                if part == ".." { _ = parts.pop() } else { parts.push(part) }
            }
            let target = parts.join("/");
            let exists = root().join(&target).exists();
            let headed =
                |h: &str| by_path.get(target.as_str()).is_some_and(|t| t.text.lines().any(|l| l.starts_with('#') && anchor(l) == h));
            if !exists || heading.is_some_and(|h| !headed(h)) {
                offences.push(format!("{}:{n}: {link}", source.path));
            }
        }
    }
    assert!(count > 10, "only {count} links were found: the search is broken");
    report("links that lead nowhere:", &offences);
}

/// Identifiers of invariants in a text: two capital letters, a hyphen, a number.
fn invariants(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(is_word(c) || c == '-'));
    let is_id = |word: &&str| {
        let Some((letters, number)) = word.split_once('-') else { return false };
        letters.len() == 2
            && letters.bytes().all(|b| b.is_ascii_uppercase())
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
    };
    words.filter(is_id).map(str::to_string).collect()
}

#[test]
fn invariants_are_listed() {
    let sources = sources();
    let code = sources.iter().filter(|s| s.is_rust() && s.path != SELF);
    let used: BTreeSet<String> = code.flat_map(|s| invariants(&s.text)).collect();
    let list = sources.iter().find(|s| s.path == "docs/invariants.md").expect("docs/invariants.md exists");
    let listed = invariants(&list.text);
    assert!(used.len() > 10, "the search for identifiers is broken: {used:?}");
    let missing: Vec<String> = used.difference(&listed).map(|id| format!("{id} is in the code and not in docs/invariants.md")).collect();
    let stale = listed.difference(&used).map(|id| format!("{id} is in docs/invariants.md and not in the code"));
    report("invariants:", &missing.into_iter().chain(stale).collect::<Vec<_>>());
}

#[test]
fn the_rules_see_offences() {
    assert_eq!(imports("use crate::{pg::wire, cli};"), ["pg", "cli"]);
    assert_eq!(imports("x(crate::node::f, $crate::pg::g)"), ["node", "pg"]);
    assert_eq!(imports("mycrate::node"), Vec::<String>::new());
    assert_eq!(words("a sim b simple _sim sim::x", "sim").collect::<Vec<_>>(), [2, 20]);
    assert_eq!(links("[a](b.md) and [c](d#e)\n```\n[x](y)\n```\n"), [(1, "b.md".to_string()), (1, "d#e".to_string())]);
    assert_eq!(invariants("TL-1: `WL-22` SHA-256 UTF-8 TL-x").into_iter().collect::<Vec<_>>(), ["TL-1", "WL-22"]);
    assert_eq!(anchor("## Redo: heap, btree"), "redo-heap-btree");
    let source = |path: &str, text: &str| Source { path: path.to_string(), text: text.to_string() };
    let lines = |s: &Source| s.product_code().map(|(n, l)| format!("{n}{l}")).collect::<Vec<_>>();
    assert_eq!(lines(&source("src/a.rs", "x // y\n#[cfg(test)]\nmod tests {\nz\n}")), ["1x "]);
    assert_eq!(lines(&source("tests/a.rs", "x")), Vec::<String>::new());
    assert_eq!(module("src/redo/pipe.rs"), Some("redo"));
    assert_eq!(module("src/node.rs"), Some("node"));
}
