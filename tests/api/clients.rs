//! Clients that send too much, too slowly or not at all, and that do not read: each is let go with what the document says.

use super::{JSON, LIMIT, T, exchange};
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::{BoxStream, ClockExt as _};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MIB: usize = 1 << 20;

async fn connect(place: &Place, server: &PalServer) -> BoxStream {
    place.env.net.connect(&server.http_address()).await.unwrap()
}

/// All that comes until the server hangs up.
async fn rest(place: &Place, mut stream: BoxStream) -> String {
    let mut answer = Vec::new();
    let read = place.env.clock.timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the server hangs up");
    // A reset is an end too, for who was still writing.
    let _ = read;
    String::from_utf8(answer).unwrap()
}

fn refused(answer: &str, status: u16, part: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let json: Value = serde_json::from_str(body).unwrap();
    let said = head.starts_with(&format!("HTTP/1.1 {status} ")) && json["msg"].as_str().unwrap().contains(part);
    assert!(said && head.contains("connection: close"), "{answer:?}");
}

#[tokio::test]
async fn large_bodies_are_refused_and_say_so() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let tenant = format!("/v1/tenant/{T}");
    // With a handler that takes JSON, bytes, or nothing; and with none.
    for (method, path) in [
        ("POST", "/v1/tenant".to_string()),
        ("POST", format!("{tenant}/attach")),
        ("POST", format!("{tenant}/load")),
        ("POST", format!("{tenant}/ignore")),
        ("GET", "/v1/status".to_string()),
        ("DELETE", "/v1/status".to_string()),
        ("PUT", "/v1/nothing".to_string()),
    ] {
        for len in [MIB + 1, 8 * MIB] {
            let answer = exchange(&place, &server.http_address(), method, &path, JSON, &vec![b' '; len]).await;
            assert!(
                answer.status == 413 && answer.json()["msg"].as_str().unwrap().contains("1048576 bytes"),
                "{method} {path}: {answer:?}"
            );
        }
    }
    // At the bound it is read: white space is no JSON.
    let answer = exchange(&place, &server.http_address(), "POST", "/v1/tenant", JSON, &vec![b' '; MIB]).await;
    assert_eq!(answer.status, 400, "{answer:?}");

    // Without a length: in chunks.
    let mut stream = connect(&place, &server).await;
    let head = format!("POST /v1/tenant HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..17 {
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 1 << 16], b"\r\n"].concat();
        stream.write_all(&chunk).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    refused(&rest(&place, stream).await, 413, "larger than");

    // Who asks first is told before it sends.
    let mut stream = connect(&place, &server).await;
    let head = format!("POST /v1/tenant HTTP/1.1\r\nhost: x\r\n{JSON}content-length: {}\r\nexpect: 100-continue\r\n\r\n", 1_u64 << 40);
    stream.write_all(head.as_bytes()).await.unwrap();
    refused(&rest(&place, stream).await, 413, "larger than");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn who_is_slow_is_let_go() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["http_client_timeout = '300ms'"]).await;
    let post = format!("POST /v1/tenant HTTP/1.1\r\nhost: x\r\n{JSON}");
    let half = format!("{post}content-length: 100\r\n\r\n{{\"new_tenant_id\":");
    let (mut silent, mut headless) = (connect(&place, &server).await, connect(&place, &server).await);
    let (mut bodiless, mut dripping) = (connect(&place, &server).await, connect(&place, &server).await);
    headless.write_all(post.as_bytes()).await.unwrap();
    bodiless.write_all(half.as_bytes()).await.unwrap();
    dripping.write_all(half.as_bytes()).await.unwrap();
    // Byte by byte helps neither a head nor a body: the limit is for all of it.
    let give_up = place.env.clock.mono().after(LIMIT);
    let mut closed = [false, false];
    while closed != [true, true] {
        for (stream, closed) in [&mut headless, &mut dripping].into_iter().zip(&mut closed) {
            *closed |= stream.write_all(b"x").await.is_err();
        }
        assert!(place.env.clock.mono() < give_up, "{closed:?}");
        place.env.clock.sleep(Duration::from_millis(20)).await;
    }
    refused(&rest(&place, bodiless).await, 408, "did not come in 300ms");
    let answered = exchange(&place, &server.http_address(), "GET", "/v1/tenant", "", b"").await;
    assert_eq!((answered.status, answered.body.as_str()), (200, "[]"), "nothing was made of half a request");
    let mut bytes = [0; 1];
    let read = place.env.clock.timeout(LIMIT, silent.read(&mut bytes)).await.expect("who says nothing is let go too");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");

    // A connection between two requests is idle, and ends as well.
    let mut idle = connect(&place, &server).await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(rest(&place, idle).await.ends_with("ok"));
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_let_go() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["http_client_timeout = '300ms'"]).await;
    let mut deaf = connect(&place, &server).await;
    let requests = b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    // Answers fill the buffers between the two, then the server reads no more, and at last it hangs up.
    let writing = async { while deaf.write_all(&requests).await.is_ok() {} };
    place.env.clock.timeout(LIMIT, writing).await.expect("the server hangs up");
    let answered = exchange(&place, &server.http_address(), "GET", "/healthz", "", b"").await;
    assert_eq!(answered.body, "ok", "others are served");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn a_body_that_ends_early_changes_nothing() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let body = format!("{{\"new_tenant_id\":\"{T}\"}}");
    let mut stream = connect(&place, &server).await;
    let head = format!("POST /v1/tenant HTTP/1.1\r\nhost: x\r\n{JSON}content-length: {}\r\n\r\n{body}", body.len() + 1);
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = rest(&place, stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    let answered = exchange(&place, &server.http_address(), "GET", "/v1/tenant", "", b"").await;
    assert_eq!(answered.body, "[]");
    assert_eq!(server.stop(&place).await, Some(0));
}
