//! Times of commits and the LSNs before them, on what a stock server wrote.

use super::support::cluster::Cluster;
use super::support::pal::{Pal, TENANT, TIMELINE};
use super::support::{Place, run};
use serde_json::Value;

const ROUNDS: usize = 6;

/// What the server's clock says, in RFC 3339.
fn now(cluster: &Cluster<'_>) -> String {
    cluster.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
}

#[test]
fn times_name_the_states_between_commits() {
    let place = Place::new();
    let mut primary = Cluster::create(&place, "primary", "autovacuum=off\n");
    primary.start();
    primary.sql("CREATE TABLE t(a int)");
    primary.stop("fast");
    let pal = Pal::start(&place, &[]);
    pal.import(&primary);
    primary.start();
    pal.follow(&primary.connstr());
    let path = format!("/v1/tenant/{TENANT}/timeline/{TIMELINE}");
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let before = now(&primary);
        primary.sql(&format!("INSERT INTO t VALUES ({round})"));
        rounds.push((before, primary.wal_end(), now(&primary)));
    }
    let end = &rounds[ROUNDS - 1].1;
    pal.wait_lsn(TIMELINE, end.parse().unwrap());

    // The time of the newest commit at each end lies where the server's clock saw it.
    for (before, lsn, after) in &rounds {
        let time = pal.ask("GET", &format!("{path}/get_timestamp_of_lsn?lsn={lsn}"), None);
        let time = time.as_str().unwrap();
        assert!(before.as_str() <= time && time <= after.as_str(), "{before} {time} {after}");
    }

    // Between two commits: one LSN, at or behind the first's end and before the second's.
    let ask = |time: &str, version: u32| -> Value {
        pal.ask("GET", &format!("{path}/get_lsn_by_timestamp?timestamp={time}&version={version}"), None)
    };
    let lsn = |value: &Value| value.as_str().unwrap().parse::<palimpsest::types::Lsn>().unwrap();
    for pair in rounds.windows(2) {
        let answer = ask(&pair[1].0, 2);
        assert_eq!(answer["kind"], "present", "{answer}");
        let found = lsn(&answer["lsn"]);
        assert!(found >= pair[0].1.parse().unwrap() && found < pair[1].1.parse().unwrap(), "{answer} {pair:?}");
        assert_eq!(ask(&pair[1].0, 1), answer["lsn"]);
    }
    assert_eq!(ask("2001-01-01T00:00:00Z", 2)["kind"], "past");
    assert_eq!(ask("2001-01-01T00:00:00Z", 1), "past");
    assert_eq!(ask("2999-01-01T00:00:00%2B02:00", 2)["kind"], "future");
    assert_eq!(ask("2999-01-01T00:00:00Z", 1), "future");

    // A branch by time holds the rows of that moment, on a server of its own.
    let create = |at: &str| pal.command(&["timeline", "create", "--tenant", TENANT, "--ancestor", TIMELINE, "--at", at]);
    let branch = run(&mut create(&rounds[3].0));
    let branch = branch.trim();
    pal.export(branch, None, "first-node", &place.path("branch"));
    let mut copy = Cluster::adopt(&place, "branch", "");
    copy.start();
    assert_eq!(copy.sql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t"), "0 1 2");
    // A branch without commits of its own knows its ancestor's.
    let inherited =
        pal.ask("GET", &format!("/v1/tenant/{TENANT}/timeline/{branch}/get_lsn_by_timestamp?timestamp={}&version=2", rounds[2].0), None);
    assert_eq!(inherited["kind"], "past", "its own history begins at the branch point: {inherited}");
    let refused = create("2001-01-01T00:00:00Z").output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).to_string();
    assert!(said.contains("cannot be branched at 2001-01-01T00:00:00.000000Z"), "{said}");
}
