//! A tenant moves from one node to another while both follow its primary.

use super::{Node, Plane, T, tenant};
use crate::support::Place;
use palimpsest::io_abstraction::disk::read_file;
use palimpsest::postgres::{Server, StopMode};
use palimpsest::types::Lsn;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const TL: &str = "33333333333333333333333333333333";
const BRANCH: &str = "44444444444444444444444444444444";
/// Nothing goes unless it is asked for.
const QUIET: [&str; 3] = ["compaction_period = '0s'", "gc_period = '0s'", "compaction_threshold = 2"];
const A: (&str, u64) = ("a", 1);
const B: (&str, u64) = ("b", 2);

/// What a timeline tells of what is stored: as far as this node knows, and as far as nobody may take it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    stored: Lsn,
    visible: Lsn,
}

fn told(info: &Value) -> Told {
    let lsn = |field: &str| info[field].as_str().unwrap_or_else(|| panic!("{info}")).parse().unwrap();
    Told { stored: lsn("remote_consistent_lsn"), visible: lsn("remote_consistent_lsn_visible") }
}

struct Story<'a> {
    place: &'a Place,
    primary: Server,
    rounds: u32,
}

impl Story<'_> {
    /// Makes WAL; gives its end.
    async fn write(&mut self) -> Lsn {
        self.rounds += 1;
        let mut sql = self.primary.sql().await.unwrap();
        sql.execute(&format!("CREATE TABLE t{} AS SELECT generate_series(1, 1000)", self.rounds)).await.unwrap();
        sql.query_value("SELECT pg_current_wal_insert_lsn()").await.unwrap().unwrap().parse().unwrap()
    }

    /// Writes, waits until the node has it, and has it stored.
    async fn store(&mut self, node: &Node<'_>) -> Told {
        let lsn = self.write().await;
        let path = tenant(&format!("/timeline/{TL}"));
        node.poll(&path, |status, info| status == 200 && info["last_record_lsn"].as_str().unwrap().parse::<Lsn>().unwrap() >= lsn).await;
        let told = told(&node.ask("PUT", &format!("{path}/checkpoint"), Value::Null, 200, TL).await);
        assert!(told.stored >= lsn, "{told:?} {lsn}");
        told
    }

    /// What the node tells once it has told that much.
    async fn visible(&self, node: &Node<'_>, lsn: Lsn) -> Told {
        told(&node.poll(&tenant(&format!("/timeline/{TL}")), |_, info| told(info).visible >= lsn).await)
    }

    async fn now(&self, node: &Node<'_>) -> Told {
        told(&node.ask("GET", &tenant(&format!("/timeline/{TL}")), Value::Null, 200, TL).await)
    }

    /// Objects of layers, and those that the newest index of a generation names.
    fn layers(&self, generation: u32) -> (BTreeSet<String>, BTreeSet<String>) {
        let directory = self.place.path("store").join("tenants").join(T).join("timelines").join(TL);
        let objects = self.place.env.disk.list(&directory).unwrap().into_iter().map(|entry| entry.name);
        let objects = objects.filter(|name| !name.starts_with("index_part")).collect();
        let index = read_file(&*self.place.env.disk, &directory.join(format!("index_part.json-{generation:08x}"))).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let layers = index["layer_metadata"].as_object().unwrap().iter();
        (objects, layers.map(|(name, meta)| format!("{name}-{:08x}", meta["generation"].as_u64().unwrap())).collect())
    }

    async fn compact(&self, node: &Node<'_>) {
        let path = tenant(&format!("/timeline/{TL}"));
        node.ask("PUT", &format!("{path}/compact"), Value::Null, 200, "null").await;
        // The index without the old layers is stored.
        node.ask("PUT", &format!("{path}/checkpoint"), Value::Null, 200, TL).await;
    }
}

#[tokio::test]
async fn a_node_that_lost_a_tenant_deletes_nothing_and_tells_nothing() {
    let place = Place::new().await;
    let mut plane = Plane::new(&place).await;
    plane.come(&place).await;
    let (mut story, a) = followed(&place, &plane).await;
    let first = plane.generation(T);
    let stored = story.store(&a).await.stored;
    let before = story.visible(&a, stored).await;

    // The control plane is away: what needs it waits, everything else goes on.
    plane.go().await;
    let away = story.store(&a).await;
    a.logged("deletions and remotely consistent LSNs wait").await;
    assert_eq!(story.now(&a).await, Told { visible: before.visible, ..away });
    let branch = json!({ "new_timeline_id": BRANCH, "ancestor_timeline_id": TL });
    a.ask("POST", &tenant("/timeline"), branch, 201, BRANCH).await;
    plane.come(&place).await;
    let before = story.visible(&a, away.stored).await;

    // Another node is to have it. Nobody has told the first, and the second has not even come up.
    plane.give(T, B.1);
    let stale = story.store(&a).await;
    story.compact(&a).await;
    a.logged("another node has the tenant in a newer generation").await;
    let (objects, named) = story.layers(first);
    let dropped: BTreeSet<_> = objects.difference(&named).cloned().collect();
    assert!(!dropped.is_empty(), "compaction let go of layers: {objects:?}");
    assert_eq!(story.now(&a).await, Told { visible: before.visible, ..stale });

    // The second comes up and goes on; the first serves what it has, and still takes nothing away.
    let b = Node::start(&place, &plane, B, &QUIET).await;
    b.ready().await;
    let second = plane.generation(T);
    assert_eq!(b.ask("GET", &tenant(""), Value::Null, 200, "Active").await["generation"], json!(second));
    let asked = plane.refused(T, first);
    let (of_a, of_b) = (story.store(&a).await, story.store(&b).await);
    let seen = story.visible(&b, of_b.stored).await;
    assert!(seen.visible > of_a.visible && of_a.stored > stale.stored, "{seen:?} {of_a:?}");
    while plane.refused(T, first) == asked {
        a.pause().await;
    }
    assert_eq!(story.now(&a).await.visible, before.visible);
    story.store(&b).await;
    swept(&story, &b, second, &dropped).await;

    // A start of the first does not attach it, and keeps the WAL that it has.
    a.stop().await;
    let a = Node::start(&place, &plane, A, &QUIET).await;
    a.ready().await;
    a.ask("GET", &tenant(""), Value::Null, 404, "was not found").await;
    assert!(place.path("a").join("tenants").join(T).join("timelines").join(TL).join("wal").exists());
    assert_eq!(plane.generation(T), second);
    let last = story.store(&b).await;
    story.visible(&b, last.stored).await;
    a.stop().await;
    b.stop().await;
    story.primary.stop(StopMode::Immediate).await.unwrap();
}

/// A node that has the tenant with a timeline that follows a primary.
async fn followed<'a>(place: &'a Place, plane: &Plane) -> (Story<'a>, Node<'a>) {
    let directory = place.cluster("primary").await;
    let node = Node::start(place, plane, A, &QUIET).await;
    node.ready().await;
    let generation = plane.give(T, A.1);
    node.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T, "generation": generation }), 201, T).await;
    let timeline = tenant(&format!("/timeline/{TL}"));
    node.ask("PUT", &format!("{timeline}/import"), json!({ "directory": directory }), 201, TL).await;
    let primary = place.start(place.spec("primary").set("wal_level", "replica").set("max_wal_senders", "10")).await;
    let source = json!({ "connstr": primary.conn_str().to_string() });
    node.ask("PUT", &format!("{timeline}/wal_source"), source, 200, "").await;
    (Story { place, primary, rounds: 0 }, node)
}

/// The node that has the tenant deletes what its compaction lets go of, and what the other one was not allowed to.
async fn swept(story: &Story<'_>, node: &Node<'_>, generation: u32, dropped: &BTreeSet<String>) {
    let own = |objects: &BTreeSet<String>| -> BTreeSet<String> {
        objects.iter().filter(|object| object.ends_with(&format!("-{generation:08x}"))).cloned().collect()
    };
    let before = own(&story.layers(generation).0);
    story.compact(node).await;
    for _ in 0..super::POLLS {
        let (objects, named) = story.layers(generation);
        if own(&objects).is_subset(&named) && !before.is_subset(&objects) && dropped.is_disjoint(&objects) {
            return;
        }
        node.pause().await;
    }
    panic!("of {before:?} and {dropped:?} none may stay: {:?}", story.layers(generation));
}
