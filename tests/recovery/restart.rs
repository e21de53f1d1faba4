//! Restarts with nothing local, in good order, and branches that live beside their parent.

use super::support::cluster::Cluster;
use super::support::pal::{Pal, TENANT, TIMELINE};
use super::support::{Place, wait_for};
use palimpsest::types::Lsn;
use serde_json::json;
use std::time::Duration;

const BRANCH: &str = "33333333333333333333333333333333";
const CONFIG: &str = "max_wal_size=4GB\nautovacuum=off\n";

fn insert(cluster: &Cluster<'_>, rows: u32, mark: &str) -> Lsn {
    cluster.sql(&format!("INSERT INTO t SELECT g, '{mark}' FROM generate_series(1, {rows}) g"));
    cluster.wal_end().parse().unwrap()
}

const MARKS: &str = "SELECT b, count(*) FROM t GROUP BY 1 ORDER BY 1";

/// What a server says that starts on an export.
fn marks_of_export(place: &Place, pal: &Pal<'_>, timeline: &str, lsn: Option<Lsn>) -> String {
    let to = place.path("export");
    pal.export(timeline, lsn, "fresh", &to);
    let mut copy = Cluster::adopt(place, "export", "");
    copy.start();
    let marks = copy.sql(MARKS);
    copy.stop("fast");
    drop(copy);
    place.discard(&to);
    place.discard(&place.path("export.s"));
    marks.replace('\n', " ")
}

#[test]
fn restarts_and_branches() {
    let place = Place::new();
    let mut primary = Cluster::create(&place, "primary", CONFIG);
    primary.start();
    primary.sql("CREATE TABLE t(a int, b text)");
    primary.stop("fast");
    let mut pal = Pal::start(&place, &[]);
    pal.import(&primary);
    primary.start();
    pal.follow(&primary.connstr());
    pal.wait_receiver("Streaming");
    wait_for("the slot is there", Duration::from_secs(20), || {
        (primary.sql("SELECT count(*) FROM pg_replication_slots") == "1").then_some(())
    });

    // Stopped in good order: everything is in layers and in remote storage, and none of it is read again.
    let first = insert(&primary, 1000, "first");
    pal.wait_lsn(TIMELINE, first);
    pal.stop();
    pal.run();
    let info = pal.timeline(TIMELINE);
    let lsn = |field: &str| info[field].as_str().unwrap().parse::<Lsn>().unwrap();
    assert!(lsn("disk_consistent_lsn") >= first && lsn("remote_consistent_lsn") >= first, "{info}");
    assert!(lsn("last_record_lsn") >= first, "{info}");

    // The local disk is lost with WAL that is in the log alone: the slot on the primary kept it.
    pal.wait_receiver("Streaming");
    let second = insert(&primary, 2000, "second");
    pal.wait_lsn(TIMELINE, second);
    assert!(pal.lsn(TIMELINE, "remote_consistent_lsn") < second);
    for statement in ["CHECKPOINT", "SELECT pg_switch_wal()", "CHECKPOINT"] {
        primary.sql(statement);
    }
    pal.kill();
    let (remote, kept) = (pal.data.join("remote"), place.path("kept-remote"));
    std::fs::rename(&remote, &kept).unwrap();
    place.discard(&pal.data);
    std::fs::create_dir(&pal.data).unwrap();
    std::fs::rename(&kept, &remote).unwrap();
    pal.run();
    pal.wait_lsn(TIMELINE, second);
    assert_eq!(marks_of_export(&place, &pal, TIMELINE, Some(second)), "first|1000 second|2000");
    assert_eq!(marks_of_export(&place, &pal, TIMELINE, Some(first)), "first|1000");

    // A branch at the earlier LSN: its server starts, its WAL is followed while the parent goes on.
    let request = json!({ "new_timeline_id": BRANCH, "ancestor_timeline_id": TIMELINE, "ancestor_start_lsn": first });
    pal.ask("POST", &format!("/v1/tenant/{TENANT}/timeline"), Some(&request));
    pal.export(BRANCH, None, "first-node", &place.path("branch"));
    let mut branch = Cluster::adopt(&place, "branch", CONFIG);
    branch.start();
    pal.follow_as(BRANCH, &branch.connstr());
    let aside = insert(&branch, 300, "aside");
    let third = insert(&primary, 500, "third");
    pal.wait_lsn(BRANCH, aside);
    pal.wait_lsn(TIMELINE, third);
    assert_eq!(branch.sql(MARKS).replace('\n', " "), "aside|300 first|1000");
    assert_eq!(marks_of_export(&place, &pal, BRANCH, None), "aside|300 first|1000");
    assert_eq!(marks_of_export(&place, &pal, BRANCH, Some(first)), "first|1000");
    assert_eq!(marks_of_export(&place, &pal, TIMELINE, None), "first|1000 second|2000 third|500");

    // Killed with both: each comes back with its own.
    pal.kill();
    let aside = insert(&branch, 40, "later");
    pal.run();
    pal.wait_lsn(BRANCH, aside);
    assert_eq!(marks_of_export(&place, &pal, BRANCH, None), "aside|300 first|1000 later|40");
    assert_eq!(marks_of_export(&place, &pal, TIMELINE, Some(third)), "first|1000 second|2000 third|500");
}
