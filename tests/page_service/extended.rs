//! Extended queries: answers in order, and after an error nothing up to Sync.

use super::client::{Client, Refusal, message, startup};
use super::timeline;
use crate::pal::PalServer;
use crate::support::Place;

fn parse(name: &str, query: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{query}\0\0\0").as_bytes())
}

/// Without parameters; results in these formats.
fn bind(portal: &str, statement: &str, formats: &[u16]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0\0\0").into_bytes();
    body.extend_from_slice(&(formats.len() as u16).to_be_bytes());
    formats.iter().for_each(|format| body.extend_from_slice(&format.to_be_bytes()));
    message(b'B', &body)
}

fn describe(target: &str) -> Vec<u8> {
    message(b'D', format!("{target}\0").as_bytes())
}

fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

fn close(target: &str) -> Vec<u8> {
    message(b'C', format!("{target}\0").as_bytes())
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn flush() -> Vec<u8> {
    message(b'H', b"")
}

/// Everything of one query.
fn whole(query: &str) -> Vec<u8> {
    [parse("", query), bind("", "", &[]), execute(""), sync()].concat()
}

/// Sends messages of which one fails, and a second query behind their Sync. Nothing is answered between the error and Sync.
async fn check_failure(client: &mut Client, messages: &[Vec<u8>], before: &str, sqlstate: &str, part: &str) {
    let sent = [messages.concat(), sync(), whole("set x")].concat();
    client.write(&sent).await;
    for kind in before.bytes() {
        client.expect(kind).await;
    }
    let refusal: Refusal = client.refusal().await;
    refusal.check(sqlstate, part);
    client.expect(b'Z').await;
    assert_eq!(client.ready().await, "12C", "the next query after: {part}");
}

#[tokio::test]
async fn an_error_passes_over_everything_up_to_sync() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let (tenant, _) = timeline(&place, &server).await;
    let mut client = Client::connect(&place, &server).await;
    let unknown = "0123456789abcdef0123456789abcdef";
    let show = format!("show {tenant}");
    let missing = format!("get_last_record_rlsn {tenant} {unknown}");
    let rest = || [describe("P"), execute(""), close("P"), parse("", "set y"), bind("", "", &[]), execute("")].concat();

    check_failure(&mut client, &[parse("", "frobnicate"), bind("", "", &[]), rest()], "", "42601", "unknown command").await;
    check_failure(&mut client, &[parse("", "show zz"), bind("", "", &[]), rest()], "", "22023", "32 hexadecimal digits").await;
    check_failure(&mut client, &[parse("", &missing), bind("", "", &[]), execute(""), rest()], "12", "XX000", "was not found").await;
    check_failure(&mut client, &[parse("a", &show), bind("", "b", &[]), rest()], "1", "26000", "\"b\" does not exist").await;
    check_failure(&mut client, &[parse("a", &show), bind("p", "a", &[]), execute("q"), rest()], "12", "34000", "\"q\"").await;
    check_failure(&mut client, &[parse("", &show), bind("", "", &[1]), rest()], "1", "0A000", "text only").await;
    check_failure(&mut client, &[describe("Snone"), rest()], "", "26000", "\"none\"").await;
    let with_parameter = message(b'B', b"\0\0\0\0\0\x01\0\0\0\x011\0\0");
    check_failure(&mut client, &[parse("", "set x"), with_parameter, rest()], "1", "08P01", "1 parameters").await;
    // A simple query before the Sync is passed over too, as PostgreSQL does.
    check_failure(&mut client, &[parse("", "x"), message(b'Q', b"set x\0")], "", "42601", "unknown command").await;
    // A portal ends with its Sync.
    client.write(&[parse("", "set x"), bind("", "", &[]), sync()].concat()).await;
    assert_eq!(client.ready().await, "12");
    check_failure(&mut client, &[execute("")], "", "34000", "up to Sync").await;
    // What is sent piece by piece is answered piece by piece: the error comes before any Sync, and then only silence until it.
    client.write(&[parse("", "x"), flush()].concat()).await;
    client.refusal().await.check("42601", "unknown command");
    client.write(&[flush(), sync()].concat()).await;
    assert_eq!(client.ready().await, "");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn rows_are_described_once() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let mut client = Client::connect(&place, &server).await;
    let query = format!("get_last_record_rlsn {tenant} {timeline}");
    client.query(&query).await;
    assert_eq!(client.ready().await, "TDC");
    client.write(&[parse("", &query), describe("S"), bind("", "", &[0, 0]), describe("P"), execute(""), sync()].concat()).await;
    assert_eq!(client.ready().await, "1tT2TDC");
    client.write(&[parse("", ""), describe("S"), bind("", "", &[]), execute(""), close("S"), close("Snone"), sync()].concat()).await;
    assert_eq!(client.ready().await, "1tn2I33");
    client.write(&whole("SET datestyle = 'ISO'")).await;
    assert_eq!(client.ready().await, "12C");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn a_pagestream_by_extended_query() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let mut client = Client::connect(&place, &server).await;
    // Sync comes with Execute, before the requests.
    client.write(&whole(&format!("pagestream_v3 {tenant} {timeline}"))).await;
    for kind in [b'1', b'2', b'W'] {
        client.expect(kind).await;
    }
    let request = |tag: u8| {
        let mut body = vec![tag];
        body.extend_from_slice(&7u64.to_be_bytes());
        body.extend_from_slice(&u64::MAX.to_be_bytes());
        body.extend_from_slice(&0u64.to_be_bytes());
        [1664u32, 0, 1262].iter().for_each(|n| body.extend_from_slice(&n.to_be_bytes()));
        body.push(0);
        message(b'd', &body)
    };
    client.write(&[request(0), flush(), request(0)].concat()).await;
    for _ in 0..2 {
        let answer = client.expect(b'd').await;
        assert_eq!((answer[0], answer.last()), (100, Some(&1)));
    }
    client.write(&[message(b'c', b""), sync()].concat()).await;
    assert_eq!(client.ready().await, "cC");
    // A request that makes no sense ends the stream with an error; what was sent behind it is passed over.
    let garbage = message(b'd', b"\x63");
    client.write(&whole(&format!("pagestream_v3 {tenant} {timeline}"))).await;
    for kind in [b'1', b'2', b'W'] {
        client.expect(kind).await;
    }
    client.write(&[garbage.clone(), request(0), message(b'c', b""), sync()].concat()).await;
    client.refusal().await.check("08P01", "unknown tag 99");
    assert_eq!(client.ready().await, "");
    // The same by a simple query, where no Sync is needed.
    client.query(&format!("pagestream_v3 {tenant} {timeline}")).await;
    client.expect(b'W').await;
    client.write(&[garbage, request(0), message(b'c', b"")].concat()).await;
    client.refusal().await.check("08P01", "unknown tag 99");
    client.expect(b'Z').await;
    client.query(&format!("pagestream {tenant} {timeline}")).await;
    client.expect(b'W').await;
    client.write(&message(b'f', b"enough\0")).await;
    client.refusal().await.check("57014", "enough");
    client.expect(b'Z').await;
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn newer_protocols_are_told_which_one_is_spoken() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    for (packet, unknown) in [
        (startup(2, &[("user", "pal")]), &b"\0\x03\0\0\0\0\0\0"[..]),
        (startup(0, &[("user", "pal"), ("_pq_.command", "on")]), b"\0\x03\0\0\0\0\0\x01_pq_.command\0"),
    ] {
        let (mut client, (kind, body)) = Client::connect_with(&place, &server, &packet).await;
        assert_eq!((kind, body.as_slice()), (b'v', unknown));
        assert_eq!(client.ready().await, "RSSS");
    }
    let (_, (kind, _)) = Client::connect_with(&place, &server, &startup(0, &[("user", "pal")])).await;
    assert_eq!(kind, b'R');
    assert_eq!(server.stop(&place).await, Some(0));
}
