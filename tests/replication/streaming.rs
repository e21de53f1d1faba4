//! WAL arrives as the server wrote it; slots; the end of a timeline.

use crate::support::Place;
use palimpsest::io_abstraction::{Disk, disk};
use palimpsest::postgres::{Server, StopMode};
use palimpsest::replication::message::StandbyStatus;
use palimpsest::replication::{CopyEvent, CopyStream, ReplicationClient};
use palimpsest::types::Lsn;
use palimpsest::types::lsn::{WAL_SEGMENT_SIZE, segment_file_name};
use std::path::Path;
use std::time::Duration;

/// WAL gathered from a stream, without a gap.
struct Gathered {
    start: Lsn,
    bytes: Vec<u8>,
    pieces: usize,
}

impl Gathered {
    fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    fn take(&mut self, event: CopyEvent) -> Option<(u32, Lsn)> {
        match event {
            CopyEvent::XLogData { start, wal_end, data } => {
                assert_eq!(start, self.end(), "pieces join");
                assert!(wal_end >= start);
                self.pieces += 1;
                self.bytes.extend_from_slice(&data);
                None
            }
            CopyEvent::Keepalive { .. } => None,
            CopyEvent::Ended { next_tli, switch_point } => Some((next_tli, switch_point)),
        }
    }

    /// Every byte equals what is in the server's files.
    fn compare(&self, disk: &dyn Disk, data_dir: &Path, tli: u32) {
        let mut at = self.start;
        while at < self.end() {
            let name = segment_file_name(tli, at.segment_number(WAL_SEGMENT_SIZE), WAL_SEGMENT_SIZE);
            let file = disk::read_file(disk, &data_dir.join("pg_wal").join(&name)).unwrap();
            let offset = at.segment_offset(WAL_SEGMENT_SIZE) as usize;
            let len = (file.len() - offset).min(self.end().distance_from(at) as usize);
            let from = at.distance_from(self.start) as usize;
            assert!(file[offset..offset + len] == self.bytes[from..from + len], "bytes of {name} from {offset} differ");
            at = Lsn(at.0 + len as u64);
        }
    }
}

async fn flush_lsn(server: &Server) -> Lsn {
    let mut sql = server.sql().await.unwrap();
    sql.query_value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap().parse().unwrap()
}

/// Reads until `target` in both ways the stream offers.
async fn gather(stream: &mut CopyStream, gathered: &mut Gathered, target: Lsn) {
    while gathered.end() < target {
        let event = stream.next().await.unwrap();
        assert_eq!(gathered.take(event), None);
        while let Some(event) = stream.try_next_buffered().unwrap() {
            assert_eq!(gathered.take(event), None);
        }
    }
}

#[tokio::test]
async fn received_bytes_equal_the_segment_files() {
    let place = Place::new().await;
    let data_dir = place.cluster("p").await;
    let server = place.start(place.spec("p").set("max_wal_size", "1GB").set("wal_keep_size", "512MB")).await;
    let mut client = ReplicationClient::connect(&place.env, &server.conn_str()).await.unwrap();
    assert_eq!(client.server_major(), 15);
    let identity = client.identify_system().await.unwrap();
    assert_eq!(identity.tli, 1);
    let start = Lsn(identity.flush_lsn.0 - identity.flush_lsn.segment_offset(WAL_SEGMENT_SIZE));
    let mut stream = client.start_physical(start, 1).await.unwrap();

    let mut sql = server.sql().await.unwrap();
    let writing = place.env.tasks.spawn("writer", async move {
        sql.execute("CREATE TABLE t AS SELECT 0 AS a, ''::text AS b").await.unwrap();
        for _ in 0..10 {
            sql.execute("INSERT INTO t SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 10000) i").await.unwrap();
        }
    });
    let mut gathered = Gathered { start, bytes: Vec::new(), pieces: 0 };
    gather(&mut stream, &mut gathered, Lsn(start.0 + 20 * 1024 * 1024)).await;
    writing.join().await;
    let target = flush_lsn(&server).await;
    gather(&mut stream, &mut gathered, target).await;
    assert!(gathered.bytes.len() > 30 << 20 && gathered.pieces > 100, "{} bytes, {} pieces", gathered.bytes.len(), gathered.pieces);
    gathered.compare(place.env.disk.as_ref(), &data_dir, 1);

    let status = StandbyStatus { write: target, flush: target, apply: start };
    stream.send_status(status, place.env.clock.wall(), true).await.unwrap();
    let reply = stream.next().await.unwrap();
    assert!(matches!(reply, CopyEvent::Keepalive { wal_end, .. } if wal_end >= target), "{reply:?}");
    let mut sql = server.sql().await.unwrap();
    let seen = sql.query("SELECT write_lsn, flush_lsn, replay_lsn FROM pg_stat_replication").await.unwrap();
    assert_eq!(seen, vec![vec![Some(target.to_string()), Some(target.to_string()), Some(start.to_string())]]);

    let stopping = place.env.tasks.spawn("stop", async move { server.stop(StopMode::Fast).await.unwrap() });
    // A fast stop waits for its standbys to confirm the last record.
    let error = loop {
        match stream.next().await {
            Ok(event) => {
                assert_eq!(gathered.take(event), None);
                let end = gathered.end();
                let status = StandbyStatus { write: end, flush: end, apply: end };
                if stream.send_status(status, place.env.clock.wall(), false).await.is_err() {
                    continue;
                }
            }
            Err(e) => break e,
        }
    };
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("shutting down") || error.to_string().contains("closed the connection"), "{error}");
    stopping.join().await;
    gathered.compare(place.env.disk.as_ref(), &data_dir, 1);
}

#[tokio::test]
async fn slots_are_made_read_and_advanced() {
    let place = Place::new().await;
    place.cluster("p").await;
    let server = place.start(place.spec("p")).await;
    let mut client = ReplicationClient::connect(&place.env, &server.conn_str()).await.unwrap();
    assert_eq!(client.read_slot("keep").await.unwrap(), None);
    client.create_physical_slot("keep", true).await.unwrap();
    client.create_physical_slot("keep", true).await.unwrap();
    client.create_physical_slot("bare", false).await.unwrap();
    let bare = client.read_slot("bare").await.unwrap().unwrap();
    assert_eq!(bare.restart_lsn, None);
    let before = client.read_slot("keep").await.unwrap().unwrap().restart_lsn.unwrap();

    let mut sql = server.sql().await.unwrap();
    sql.execute("CREATE TABLE t AS SELECT generate_series(1, 1000)").await.unwrap();
    let target = flush_lsn(&server).await;
    assert_eq!(sql.advance_slot("keep", target).await.unwrap(), Some(target));
    assert_eq!(sql.advance_slot("keep", before).await.unwrap(), Some(target), "never backwards");
    assert_eq!(sql.advance_slot("bare", target).await.unwrap(), None);
    assert_eq!(sql.advance_slot("absent", target).await.unwrap(), None);
    assert_eq!(sql.read_slot("keep").await.unwrap().unwrap().restart_lsn, Some(target));
    assert_eq!(client.read_slot("keep").await.unwrap().unwrap().restart_lsn, Some(target));
    assert_eq!(client.read_slot("keep").await.unwrap().unwrap().restart_tli, Some(1));
    client.drop_slot("keep").await.unwrap();
    client.drop_slot("keep").await.unwrap();
    assert_eq!(client.read_slot("keep").await.unwrap(), None);
    let error = client.create_physical_slot("No-Good", true).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("42602"), "{error}");
    server.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn a_promotion_ends_the_stream_at_the_switch_point() {
    let place = Place::new().await;
    let data_dir = place.cluster("p").await;
    let server = place.start(place.spec("p").set("wal_keep_size", "256MB")).await;
    let mut client = ReplicationClient::connect(&place.env, &server.conn_str()).await.unwrap();
    let start = client.identify_system().await.unwrap().flush_lsn.page_start();
    client.close().await;
    server.sql().await.unwrap().execute("CREATE TABLE t AS SELECT generate_series(1, 10000)").await.unwrap();
    server.stop(StopMode::Fast).await.unwrap();

    // Archive recovery that finds nothing in the archive ends on a new timeline.
    disk::write_file_durably(place.env.disk.as_ref(), &data_dir.join("recovery.signal"), b"").unwrap();
    let server = place.start(place.spec("p").set("restore_command", "false").set("wal_keep_size", "256MB")).await;
    let mut client = ReplicationClient::connect(&place.env, &server.conn_str()).await.unwrap();
    // A server is ready a moment before it knows the timeline it promoted to.
    while client.identify_system().await.unwrap().tli != 2 {}
    let (name, content) = client.timeline_history(2).await.unwrap();
    assert_eq!(name, "00000002.history");
    let content = String::from_utf8(content.to_vec()).unwrap();
    let error = client.timeline_history(1).await.unwrap_err();
    assert!(error.sqlstate().is_some(), "{error}");

    let mut stream = client.start_physical(start, 1).await.unwrap();
    let mut gathered = Gathered { start, bytes: Vec::new(), pieces: 0 };
    let (next_tli, switch_point) = loop {
        if let Some(end) = gathered.take(stream.next().await.unwrap()) {
            break end;
        }
    };
    assert_eq!((next_tli, switch_point), (2, gathered.end()));
    assert!(content.contains(&switch_point.to_string()), "{content}");
    gathered.compare(place.env.disk.as_ref(), &data_dir, 1);
    assert!(matches!(stream.next().await.unwrap(), CopyEvent::Ended { next_tli: 2, .. }), "said again");

    // The connection goes on: first at the very end of the old timeline, then on the new one.
    let client = stream.into_client().unwrap();
    let mut stream = client.start_physical(switch_point, 1).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), CopyEvent::Ended { next_tli, switch_point });
    let client = stream.into_client().unwrap();
    let start = switch_point.page_start();
    let mut stream = client.start_physical(start, 2).await.unwrap();
    let mut gathered = Gathered { start, bytes: Vec::new(), pieces: 0 };
    let target = flush_lsn(&server).await;
    gather(&mut stream, &mut gathered, target).await;
    gathered.compare(place.env.disk.as_ref(), &data_dir, 2);
    assert!(stream.into_client().is_none(), "a stream that runs gives no connection back");
    server.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn refusals_and_silence() {
    let place = Place::new().await;
    place.cluster("p").await;
    let server = place.start(place.spec("p")).await;
    let connect = || async { ReplicationClient::connect(&place.env, &server.conn_str()).await.unwrap() };

    // The server looks at the position only after it has opened the stream, at the timeline before.
    let mut stream = connect().await.start_physical(Lsn(0x7000_0000_0000), 1).await.unwrap();
    let error = stream.next().await.unwrap_err();
    assert!(error.to_string().contains("ahead of the WAL flush position") && error.is_transient(), "{error}");
    let error = connect().await.start_physical(Lsn(WAL_SEGMENT_SIZE), 7).await.err().unwrap();
    assert!(error.to_string().contains("START_REPLICATION") && error.sqlstate().is_some(), "{error}");

    // WAL that is gone is only noticed by reading.
    let mut sql = server.sql().await.unwrap();
    for _ in 0..3 {
        sql.execute("CREATE TABLE IF NOT EXISTS t(x int); INSERT INTO t VALUES (1); SELECT pg_switch_wal(); CHECKPOINT").await.unwrap();
    }
    let mut stream = connect().await.start_physical(Lsn(WAL_SEGMENT_SIZE), 1).await.unwrap();
    let error = stream.next().await.unwrap_err();
    assert!(error.is_wal_removed() && !error.is_transient(), "{error}");
    assert!(error.to_string().contains("replication slot"), "{error}");

    // A server that stands still is asked, then given up.
    let target = flush_lsn(&server).await;
    let mut stream = connect().await.start_physical(target.page_start(), 1).await.unwrap();
    stream.set_silence_limit(Duration::from_secs(2));
    let mut gathered = Gathered { start: target.page_start(), bytes: Vec::new(), pieces: 0 };
    gather(&mut stream, &mut gathered, target).await;
    let answer = stream.next().await.unwrap();
    assert!(matches!(answer, CopyEvent::Keepalive { .. }), "the server answered when asked: {answer:?}");
    signal_walsenders(&place, &server, "-STOP").await;
    let error = loop {
        match stream.next().await {
            Ok(event) => _ = gathered.take(event),
            Err(e) => break e,
        }
    };
    signal_walsenders(&place, &server, "-CONT").await;
    assert!(error.to_string().contains("no answer to START_REPLICATION within 2s") && error.is_transient(), "{error}");
    // A fast stop would wait for this standby to confirm everything.
    drop(stream);
    server.stop(StopMode::Fast).await.unwrap();
}

async fn signal_walsenders(place: &Place, server: &Server, signal: &str) {
    use palimpsest::io_abstraction::process::Command;
    let mut sql = server.sql().await.unwrap();
    let pids = sql.query("SELECT pid FROM pg_stat_replication").await.unwrap();
    let args = std::iter::once(signal.to_string()).chain(pids.into_iter().flatten().flatten()).collect();
    let output = place.env.process.run(Command { program: "kill".into(), args, ..Command::default() }).await.unwrap();
    assert!(output.success(), "{output:?}");
}
