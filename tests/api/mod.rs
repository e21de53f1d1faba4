//! The management API and the page service as clients meet them: statuses, bodies, bad input; and that the server lives on.

mod clients;
mod life_cycle;
mod openapi;
mod size;

use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::{Address, ClockExt as _};
use palimpsest::postgres::SqlClient;
use palimpsest::replication::{ConnStr, SslMode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub const LIMIT: Duration = Duration::from_secs(120);
const T: &str = "11111111111111111111111111111111";
const OTHER: &str = "22222222222222222222222222222222";
const ROOT: &str = "33333333333333333333333333333333";
const BRANCH: &str = "44444444444444444444444444444444";

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The media type, without its parameters.
    pub kind: String,
    head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request as bytes on a connection of its own. `headers` end with line breaks.
pub async fn exchange(place: &Place, address: &Address, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let exchange = async {
        let mut stream = place.env.net.connect(address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let answer = place.env.clock.timeout(LIMIT, exchange).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path} {headers}: no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, kind: String::new(), head: head.to_string(), body: body.to_string() };
    answer.kind = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().to_string();
    answer
}

/// The same, its status and body.
pub async fn http(place: &Place, address: &Address, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let answer = exchange(place, address, method, path, kind, body).await;
    (answer.status, answer.body)
}

pub const JSON: &str = "content-type: application/json\r\n";

/// One case: request, status, part of the message (or of the body when the status is a success).
async fn check(place: &Place, server: &PalServer, method: &str, path: &str, body: Value, status: u16, part: &str) -> Value {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let (got, text) = http(place, &server.http_address(), method, path, JSON, &bytes).await;
    assert_eq!(got, status, "{method} {path} {body}: {text}");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{method} {path}: {e}: {text}"));
    let said = if status < 300 { text.as_str() } else { json["msg"].as_str().expect("errors have a msg") };
    assert!(said.contains(part), "{method} {path} {body}: {part} is not in {text}");
    json
}

#[tokio::test]
async fn statuses_and_bodies() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["wait_lsn_timeout = '300ms'"]).await;
    let case = async |method: &str, path: &str, body: Value, status: u16, part: &str| {
        check(&place, &server, method, path, body, status, part).await
    };
    let none = Value::Null;
    case("GET", "/v1/status", none.clone(), 200, "\"id\"").await;
    case("GET", "/v1/nothing", none.clone(), 404, "page not found").await;
    case("DELETE", "/v1/status", none.clone(), 405, "method").await;

    // Tenants.
    case("GET", "/v1/tenant", none.clone(), 200, "[]").await;
    assert_eq!(case("POST", "/v1/tenant", json!({ "new_tenant_id": T }), 201, T).await, json!(T));
    case("POST", "/v1/tenant/", json!({ "new_tenant_id": T }), 409, "Conflict: ").await;
    for (body, part) in [
        (json!({ "new_tenant_id": "zz" }), "32 hexadecimal digits"),
        (json!({ "new_tenant_id": 7 }), "expected"),
        (json!({}), "new_tenant_id"),
        (
            json!({ "new_tenant_id": OTHER, "chekpoint_distance": 1 }),
            "unknown key \"chekpoint_distance\"; did you mean \"checkpoint_distance\"",
        ),
        (json!([]), "Bad request: "),
        (none.clone(), "Bad request: "),
    ] {
        case("POST", "/v1/tenant", body, 400, part).await;
    }
    let info = case("GET", &format!("/v1/tenant/{T}/"), none.clone(), 200, T).await;
    assert_eq!((&info["attachment_status"]["slug"], &info["current_physical_size"]), (&json!("attached"), &json!(0)));
    case("GET", &format!("/v1/tenant/{OTHER}"), none.clone(), 404, "NotFound: ").await;
    case("GET", "/v1/tenant/xyz", none.clone(), 400, "Bad request: \"xyz\" is not a tenant id").await;

    // Timelines.
    let timelines = format!("/v1/tenant/{T}/timeline");
    case("GET", &timelines, none.clone(), 200, "[]").await;
    let create = json!({ "new_timeline_id": ROOT, "pg_version": 15 });
    let root = case("POST", &timelines, create.clone(), 201, ROOT).await;
    for field in [
        "tenant_id",
        "timeline_id",
        "last_record_lsn",
        "disk_consistent_lsn",
        "remote_consistent_lsn",
        "initdb_lsn",
        "latest_gc_cutoff_lsn",
        "pg_version",
        "state",
    ] {
        assert!(!root[field].is_null(), "{field}: {root}");
    }
    assert_eq!(root["remote_consistent_lsn"], root["last_record_lsn"], "created means uploaded");
    assert_eq!(case("POST", &timelines, create, 201, ROOT).await["initdb_lsn"], root["initdb_lsn"], "the same request again");
    case("POST", &timelines, json!({ "new_timeline_id": ROOT, "pg_version": 16 }), 409, "Conflict: ").await;
    let at = root["last_record_lsn"].clone();
    let branch = json!({ "new_timeline_id": BRANCH, "ancestor_timeline_id": ROOT, "ancestor_start_lsn": at });
    assert_eq!(case("POST", &timelines, branch.clone(), 201, BRANCH).await["ancestor_lsn"], at);
    case("POST", &timelines, branch, 201, BRANCH).await;
    let new = "55555555555555555555555555555555";
    for (body, status, part) in [
        (json!({ "new_timeline_id": BRANCH, "pg_version": 15 }), 409, "Conflict: "),
        (
            json!({ "new_timeline_id": new, "ancestor_timeline_id": ROOT, "ancestor_start_lsn": "0/10" }),
            406,
            "less than the latest GC cutoff",
        ),
        (json!({ "new_timeline_id": new, "ancestor_timeline_id": ROOT, "ancestor_start_lsn": "FF/0" }), 503, "FF/0"),
        (json!({ "new_timeline_id": new, "ancestor_timeline_id": new }), 404, new),
        (json!({ "new_timeline_id": "x" }), 400, "not a timeline id"),
        (json!({ "new_timeline_id": new, "pg_version": 13 }), 400, "14 to 18"),
        (json!({ "new_timeline_id": new, "pg_version": "15" }), 400, "pg_version"),
        (json!({ "new_timeline_id": new, "ancestor_start_lsn": "0/10" }), 400, "ancestor_timeline_id"),
        (json!({ "new_timeline_id": new, "ancestor_timeline_id": ROOT, "ancestor_start_lsn": "10" }), 400, "not an LSN"),
        (json!({ "new_timeline_id": new, "color": "red" }), 400, "unknown field"),
        (json!({}), 400, "new_timeline_id"),
        (json!("text"), 400, "Bad request: "),
    ] {
        case("POST", &timelines, body, status, part).await;
    }
    case("POST", &format!("/v1/tenant/{OTHER}/timeline"), json!({ "new_timeline_id": new }), 404, "NotFound: ").await;
    case("GET", &format!("{timelines}/{new}"), none.clone(), 404, "was not found").await;
    case("GET", &format!("{timelines}/nope"), none.clone(), 400, "not a timeline id").await;
    case("GET", &format!("{timelines}/{ROOT}?include-non-incremental-logical-size=perhaps"), none.clone(), 400, "Bad request: ").await;
    let sized = case("GET", &format!("{timelines}/{ROOT}?include-non-incremental-logical-size=true"), none.clone(), 200, ROOT).await;
    assert!(sized["current_logical_size"].as_u64().unwrap() > 1 << 20, "{sized}");
    assert_eq!(case("GET", &timelines, none.clone(), 200, ROOT).await.as_array().unwrap().len(), 2);
    case("PUT", &format!("{timelines}/{ROOT}/wal_source"), json!({ "connstr": "host" }), 400, "Bad request: ").await;
    case("PUT", &format!("{timelines}/{new}/wal_source"), json!({ "connstr": "host=x" }), 404, "was not found").await;
    case("PUT", &format!("{timelines}/{new}/import"), json!({ "directory": "/nonexistent" }), 400, "/nonexistent").await;
    case("PUT", &format!("{timelines}/{ROOT}/checkpoint"), none.clone(), 200, ROOT).await;

    // Times: a fresh cluster's commits were made before its history begins.
    let (of_lsn, by_time) = (format!("{timelines}/{ROOT}/get_timestamp_of_lsn"), format!("{timelines}/{ROOT}/get_lsn_by_timestamp"));
    let nodata = case("GET", &format!("{by_time}?timestamp=2026-01-01T00:00:00Z&version=2"), none.clone(), 200, "nodata").await;
    assert_eq!(nodata["lsn"], root["latest_gc_cutoff_lsn"]);
    case("GET", &format!("{by_time}/?timestamp=2026-01-01T00:00:00Z"), none.clone(), 200, "nodata").await;
    let last = root["last_record_lsn"].as_str().unwrap();
    for (path, status, part) in [
        (format!("{of_lsn}?lsn={last}"), 404, "there is no commit at or below it"),
        (format!("{of_lsn}?lsn=0/10"), 404, "garbage collected"),
        (format!("{of_lsn}?lsn=FF/0"), 400, "beyond the last record"),
        (format!("{of_lsn}?lsn=10"), 400, "not an LSN"),
        (of_lsn.clone(), 400, "lsn"),
        (format!("{by_time}?timestamp=yesterday"), 400, "expected RFC 3339"),
        (format!("{by_time}?timestamp=2026-01-01T00:00:00+02:00"), 400, "%2B"),
        (format!("{by_time}?timestamp=2026-01-01T00:00:00Z&version=two"), 400, "version"),
        (by_time.clone(), 400, "timestamp"),
        (format!("{timelines}/{new}/get_lsn_by_timestamp?timestamp=2026-01-01T00:00:00Z"), 404, "was not found"),
    ] {
        case("GET", &path, none.clone(), status, part).await;
    }
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn bytes_that_are_no_request_of_ours() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let address = server.http_address();
    let too_long = format!("{{\"new_tenant_id\":\"{}\"}}", "1".repeat(2 << 20));
    for (kind, body, status) in [
        (JSON, "{\"new_tenant_id\": ".as_bytes(), 400),
        (JSON, b"\xff\xfe\0", 400),
        (JSON, too_long.as_bytes(), 413),
        ("", b"{}", 400),
        ("content-type: text/plain\r\n", b"{}", 400),
    ] {
        let (got, text) = http(&place, &address, "POST", "/v1/tenant", kind, body).await;
        assert_eq!(got, status, "{text}");
        assert!(serde_json::from_str::<Value>(&text).unwrap()["msg"].is_string(), "{text}");
    }
    for (path, part) in [("/v1/tenant/%00", "is not a tenant id"), ("/v1/tenant/..%2f..", "is not a tenant id")] {
        let (got, text) = http(&place, &address, "GET", path, "", b"").await;
        assert!(got == 400 && text.contains(part), "{path}: {got} {text}");
    }
    let (status, metrics) = http(&place, &address, "GET", "/metrics", "", b"").await;
    assert!(status == 200, "{metrics}");
    let mut stream = place.env.net.connect(&address).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00garbage\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    place.env.clock.timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the server hangs up").unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    check(&place, &server, "GET", "/v1/status", Value::Null, 200, "\"id\"").await;
    assert_eq!(server.stop(&place).await, Some(0));
}

fn pages_connstr(server: &PalServer) -> ConnStr {
    let Address::Tcp { host, port } = server.pages_address() else { unreachable!("it listens on TCP") };
    ConnStr { host, port, ssl_mode: SslMode::Disable, ..ConnStr::default() }
}

#[tokio::test]
async fn the_page_service_refuses_and_lives_on() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    check(&place, &server, "POST", "/v1/tenant", json!({ "new_tenant_id": T }), 201, T).await;
    let mut client = SqlClient::connect(&place.env, &pages_connstr(&server)).await.unwrap();
    for (command, state, part) in [
        ("frobnicate".to_string(), "42601", "unknown command \"frobnicate\""),
        ("SELECT 1".to_string(), "42601", "unknown command"),
        ("pagestream_v3".to_string(), "42601", "needs a tenant id"),
        (format!("show {T} more"), "42601", "more"),
        ("show zz".to_string(), "22023", "32 hexadecimal digits"),
        (format!("pagestream_v2 {T} zz"), "22023", "not a timeline id"),
        (format!("fullbackup {T} {ROOT} 10"), "22023", "not an LSN"),
        (format!("pagestream_v3 {T} {ROOT}"), "XX000", "was not found"),
        (format!("pagestream_v3 {OTHER} {ROOT}"), "XX000", "was not found"),
        (format!("get_last_record_rlsn {T} {ROOT}"), "XX000", "was not found"),
    ] {
        let error = client.query(&command).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some(state), "{command}: {error}");
        assert!(error.to_string().contains(part), "{command}: {part} is not in {error}");
    }
    // The same connection goes on.
    assert_eq!(client.query(&format!("show {T}")).await.unwrap().len(), 1);

    let ready = startup();
    for (what, bytes) in [
        ("an HTTP request", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("zeros", vec![0; 64]),
        ("a length of nothing", vec![0, 0, 0, 4]),
        ("all ones", vec![0xff; 64]),
        ("an unknown message", [&ready[..], b"~\0\0\0\x04"].concat()),
        ("a message with a negative length", [&ready[..], b"Q\xff\xff\xff\xff"].concat()),
        ("a message that is too long", [&ready[..], b"Q\x7f\xff\xff\xff"].concat()),
        ("a query without an end", [&ready[..], b"Q\0\0\0\x08abcd"].concat()),
    ] {
        let mut stream = place.env.net.connect(&server.pages_address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        place
            .env
            .clock
            .timeout(LIMIT, stream.read_to_end(&mut answer))
            .await
            .unwrap_or_else(|_| panic!("{what}: the server hangs up"))
            .unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("C08P01"), "{what}: {text:?}");
    }
    assert_eq!(client.query(&format!("show {T}")).await.unwrap().len(), 1, "other connections go on");
    client.close().await;
    let mut again = SqlClient::connect(&place.env, &pages_connstr(&server)).await.unwrap();
    assert_eq!(again.query(&format!("show {T}")).await.unwrap().len(), 1);
    again.close().await;
    assert_eq!(server.stop(&place).await, Some(0));
}

/// A startup packet. Source: PostgreSQL 15 documentation, section 55.7.
fn startup() -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    packet.extend_from_slice(b"user\0pal\0\0");
    packet[3] = packet.len() as u8;
    packet
}
