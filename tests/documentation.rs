//! What the documents say exists does, and what exists is said: settings, metrics, paths, commands.

#![expect(clippy::disallowed_methods, reason = "reads the workspace's own documents")]

use clap::CommandFactory as _;
use palimpsest::cli::Cli;
use palimpsest::config::Config;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn rust_files(directory: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// First cells of a document's tables, without their code marks.
fn first_cells(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let (cell, rest) = line.strip_prefix("| `")?.split_once('`')?;
        Some((cell.to_string(), rest.trim_start_matches([' ', '|']).to_string()))
    };
    text.lines().filter_map(row).collect()
}

/// Keys with their defaults in TOML, tables as `table.key`.
fn settings() -> Vec<(String, String)> {
    let table = toml::Table::try_from(Config::default()).unwrap();
    let plain = table.iter().filter(|(_, value)| !value.is_table()).map(|(key, value)| (key.clone(), value.to_string()));
    let others = [("remote_storage.local_path", "`\"DIR/remote\"`"), ("postgres.versions", "`{}`"), ("postgres.run_as", "`\"postgres\"`")];
    let control_plane = ["control_plane_api", "control_plane_api_token", "control_plane_api_ca"];
    let absent =
        ["auth_validation_public_key_path", "ssl_cert_file", "ssl_key_file"].into_iter().chain(control_plane).map(|key| (key, "none"));
    let others = others.into_iter().chain(absent).map(|(k, v)| (k.to_string(), v.to_string()));
    plain.map(|(key, value)| (key, format!("`{value}`"))).chain(others).collect()
}

#[test]
fn settings_are_documented_with_their_defaults() {
    let rows = first_cells(&read("docs/operate.md"));
    for (key, default) in settings() {
        let Some((_, rest)) = rows.iter().find(|(cell, _)| *cell == key) else {
            panic!("docs/operate.md has no row for the setting {key}")
        };
        assert!(rest.starts_with(&default), "docs/operate.md says of {key}: {rest}; its default is {default}");
    }
}

#[test]
fn metrics_are_documented() {
    let mut sources = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect::<String>();
    // A literal that is a name from quote to quote: others are parts of texts.
    let quoted = |text: &str| text.split("\"palimpsest_").skip(1).map(|rest| (name(rest), rest.to_string())).collect::<Vec<_>>();
    let found = sources.iter().flat_map(|s| quoted(s)).filter(|(n, rest)| !n.is_empty() && rest[n.len()..].starts_with('"'));
    let exported: BTreeSet<String> = found.map(|(n, _)| format!("palimpsest_{n}")).collect();
    let cells: BTreeSet<String> =
        first_cells(&read("docs/operate.md")).into_iter().map(|(cell, _)| cell).filter(|c| c.starts_with("palimpsest_")).collect();
    assert!(!exported.is_empty());
    assert_eq!(exported, cells, "metrics in src (left) and in docs/operate.md (right)");
}

#[test]
fn paths_are_documented() {
    let router = read("src/http/router.rs");
    let routed: BTreeSet<&str> = router.split("(\"").skip(1).filter(|r| r.starts_with('/')).filter_map(|r| r.split('"').next()).collect();
    let text = read("docs/api/README.md");
    let rows = first_cells(&text);
    let documented: BTreeSet<&str> =
        rows.iter().filter_map(|(cell, _)| cell.split_once(' ')).map(|(_, path)| path).filter(|p| p.starts_with('/')).collect();
    assert!(!routed.is_empty());
    assert_eq!(routed, documented, "paths in the router (left) and in docs/api/README.md (right)");
}

#[test]
fn page_service_commands_are_documented() {
    let protocol = read("src/page_service/protocol.rs");
    let usages: BTreeSet<&str> = protocol.split("usage: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let text = read("docs/api/README.md").replace("\\|", "|");
    assert!(usages.len() > 3);
    for usage in usages {
        assert!(text.contains(usage), "docs/api/README.md lacks the page service's command `{usage}`");
    }
}

/// Names in calls of a macro of the probe, as in `planted!(env, "name")`.
fn names_in(sources: &[String], macro_name: &str) -> BTreeSet<String> {
    let calls = sources.iter().flat_map(|source| source.split(macro_name).skip(1));
    calls.filter_map(|call| Some(call.split_once(')')?.0.split('"').nth(1)?.to_string())).collect()
}

#[test]
fn sites_and_planted_bugs_of_the_simulator_are_documented() {
    let mut sources = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let text = read("docs/simulation.md");
    let table = |heading: &str| {
        let rows = text.split_once(heading).unwrap_or_else(|| panic!("docs/simulation.md has no table of {heading:?}")).1;
        let rows = rows.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        first_cells(&rows.collect::<Vec<_>>().join("\n")).into_iter().map(|(cell, _)| cell).collect::<BTreeSet<String>>()
    };
    let (sites, bugs) = (names_in(&sources, "buggify!("), names_in(&sources, "planted!("));
    assert!(sites.len() > 3 && bugs.len() > 3);
    assert_eq!(sites, table("Sites of `buggify!`"), "sites in src (left) and in docs/simulation.md (right)");
    assert_eq!(bugs, table("## Planted bugs"), "planted bugs in src (left) and in docs/simulation.md (right)");
    let mutants = read("sim/cli/src/mutants.rs");
    for bug in &bugs {
        assert!(mutants.contains(&format!("\"{bug}\"")), "sim/cli/src/mutants.rs never looks for the planted bug {bug}");
    }
}

/// Commands a person may give, as `wal verify`.
fn commands() -> BTreeSet<String> {
    fn leaves(command: &clap::Command, prefix: &str, into: &mut BTreeSet<String>) {
        let visible: Vec<&clap::Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
        for sub in &visible {
            leaves(sub, format!("{prefix} {}", sub.get_name()).trim(), into);
        }
        if visible.is_empty() {
            into.insert(prefix.to_string());
        }
    }
    let mut all = BTreeSet::new();
    leaves(&Cli::command(), "", &mut all);
    all
}

#[test]
fn commands_are_documented() {
    let commands = commands();
    let text = read("README.md");
    let rows: Vec<String> = first_cells(&text).into_iter().filter_map(|(cell, _)| cell.strip_prefix("pal ").map(str::to_string)).collect();
    let is = |row: &str, command: &str| row.strip_prefix(command).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    for command in &commands {
        assert!(rows.iter().any(|row| is(row, command)), "README.md has no row for `pal {command}`");
    }
    for row in &rows {
        assert!(commands.iter().any(|command| is(row, command)), "README.md has a row for `pal {row}`, which is no command");
    }
}

/// The product carries nothing of the simulator: no symbol of its crates is in the executable.
#[test]
fn the_program_holds_no_simulator() {
    let bytes = fs::read(env!("CARGO_BIN_EXE_pal")).unwrap();
    // Names of crates in mangled symbols carry their length in front.
    let has = |name: &str| {
        let symbol = format!("{}{name}", name.len());
        bytes.windows(symbol.len()).any(|w| w == symbol.as_bytes())
    };
    assert!(has("palimpsest"), "the executable has no symbols to look at");
    for name in ["sim_core", "sim_sched", "sim_net", "madsim", "turmoil"] {
        assert!(!has(name), "the executable holds symbols of {name}");
    }
}
