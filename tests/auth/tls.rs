//! TLS on both listeners.

use super::{HTTP, Keys, PAGES, T};
use crate::api::http;
use crate::page_service::client::{Client, LIMIT, startup};
use crate::pal::{PalServer, pal};
use crate::support::Place;
use palimpsest::io_abstraction::disk::write_file_durably;
use palimpsest::io_abstraction::{Address, ClockExt as _};
use palimpsest::postgres::SqlClient;
use palimpsest::replication::{ConnStr, Password, SslMode};
use std::path::PathBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// SSLRequest. Source: PostgreSQL 15 documentation, section 55.7.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Writes a self-signed certificate for 127.0.0.1; its file and its key's.
fn certify(place: &Place, name: &str) -> (PathBuf, PathBuf) {
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_string()]).unwrap();
    let file = |suffix: &str, text: String| {
        let path = place.path(&format!("{name}.{suffix}"));
        write_file_durably(&*place.env.disk, &path, text.as_bytes()).unwrap();
        path
    };
    (file("crt", certified.cert.pem()), file("key", certified.signing_key.serialize_pem()))
}

fn settings(files: &(PathBuf, PathBuf)) -> [String; 2] {
    [format!("ssl_cert_file = '{}'", files.0.display()), format!("ssl_key_file = '{}'", files.1.display())]
}

fn pages(server: &PalServer, ssl_mode: SslMode, ca: Option<&PathBuf>, token: &str) -> ConnStr {
    let Address::Tcp { host, port } = server.pages_address() else { unreachable!("it listens on TCP") };
    ConnStr { host, port, ssl_mode, ssl_root_cert: ca.cloned(), password: Some(Password::new(token)), ..ConnStr::default() }
}

#[tokio::test]
async fn both_listeners_are_encrypted() {
    let place = Place::new().await;
    let keys = Keys::generate(&place, "keys").await;
    let (files, other) = (certify(&place, "server"), certify(&place, "other"));
    let tls = settings(&files);
    // As it would be on a network: every address, because tokens and TLS are there.
    let open = ["listen_http_addr = '0.0.0.0:0'", "listen_pg_addr = '0.0.0.0:0'"];
    let mut server = PalServer::start(&place, "node", &[&open[..], &[HTTP, PAGES, &keys.setting(), &tls[0], &tls[1]]].concat()).await;
    let on_loopback = |text: &str| text.replace("0.0.0.0", "127.0.0.1");
    (server.http, server.pages) = (on_loopback(&server.http), on_loopback(&server.pages));
    let token = keys.token(&place, &["--ttl", "1h"]).await;
    let (endpoint, ca) = (format!("https://{}", server.http), files.0.display().to_string());
    let (plain, other_ca) = (server.http.clone(), other.0.display().to_string());
    for (endpoint, ca, code, part) in [
        (&endpoint, ca.as_str(), 0, T),
        (&endpoint, &other_ca, 1, "--ca"),
        (&endpoint, "/nonexistent", 7, "--ca /nonexistent"),
        (&endpoint, "", 7, "needs --ca FILE"),
        (&plain, &ca, 1, "https://"),
    ] {
        let variables = [("PAL_ENDPOINT", endpoint.as_str()), ("PAL_TOKEN", &token), ("PAL_CA", ca)];
        let variables = if ca.is_empty() { &variables[..2] } else { &variables[..] };
        let said = pal(&place, &["tenant", "create", "--id", T], variables).await;
        assert!(said.code == Some(code) && (said.out.contains(part) || said.err.contains(part)), "{endpoint} {ca}: {said:?}");
    }

    let mut client = SqlClient::connect(&place.env, &pages(&server, SslMode::VerifyFull, Some(&files.0), &token)).await.unwrap();
    assert_eq!(client.query(&format!("show {T}")).await.unwrap().len(), 1);
    client.close().await;
    for (connstr, part) in [
        (pages(&server, SslMode::Disable, None, &token), "must connect with TLS"),
        (pages(&server, SslMode::VerifyFull, Some(&other.0), &token), "TLS with"),
        (pages(&server, SslMode::Require, None, "garbage"), "not a valid token"),
    ] {
        let error = SqlClient::connect(&place.env, &connstr).await.err().unwrap().to_string();
        assert!(error.contains(part), "{connstr}: {error}");
    }
    let (mut plain, _) = {
        let (client, first) = Client::connect_with(&place, &server, &startup(0, &[])).await;
        assert!(first.0 == b'E' && String::from_utf8_lossy(&first.1).contains("28000"), "{first:?}");
        (client, first)
    };
    assert!(plain.next().await.is_none(), "the server hangs up");

    let target = place.path("export").display().to_string();
    for (ca, part) in [(Some(ca.as_str()), "was not found"), (None, "--ca (PAL_CA)")] {
        let mut variables = vec![("PAL_PAGE_SERVICE", server.pages.as_str()), ("PAL_TOKEN", &token)];
        variables.extend(ca.map(|ca| ("PAL_CA", ca)));
        let said = pal(&place, &["export", "--tenant", T, "--timeline", T, "-o", &target], &variables).await;
        assert!(said.code != Some(0) && said.err.contains(part), "{ca:?}: {said:?}");
    }
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn what_is_no_handshake_ends() {
    let place = Place::new().await;
    let tls = settings(&certify(&place, "server"));
    let server = PalServer::start(&place, "node", &[&tls[0], &tls[1], "pg_tls = 'allow'"]).await;
    // Bytes that came before the handshake would count as encrypted.
    for (address, bytes, want) in [
        (server.pages_address(), [&SSL_REQUEST[..], &startup(0, &[("user", "pal")])].concat(), "C08P01"),
        (server.http_address(), b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), ""),
    ] {
        let mut stream = place.env.net.connect(&address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = place.env.clock.timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the server hangs up");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains(want) && !text.contains("HTTP/1.1 200"), "{read:?} {text:?}");
    }
    let mut stream = place.env.net.connect(&server.pages_address()).await.unwrap();
    stream.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    stream.write_all(&[b'x'; 100]).await.unwrap();
    let mut answer = Vec::new();
    // An alert and the end, or a reset: anything but waiting.
    let _ = place.env.clock.timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the server hangs up");

    // Where clients without TLS are allowed both kinds are served.
    Client::connect(&place, &server).await;
    SqlClient::connect(&place.env, &pages(&server, SslMode::Require, None, "")).await.unwrap().close().await;
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn without_a_certificate_tls_is_declined() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let error = SqlClient::connect(&place.env, &pages(&server, SslMode::Require, None, "")).await.err().unwrap().to_string();
    assert!(error.contains("does not offer TLS"), "{error}");
    SqlClient::connect(&place.env, &pages(&server, SslMode::Prefer, None, "")).await.unwrap().close().await;
    let (status, _) = http(&place, &server.http_address(), "GET", "/v1/status", "", b"").await;
    assert_eq!(status, 200);
    let said = pal(&place, &["tenant", "list", "--endpoint", &format!("https://{}", server.http), "--ca", "x"], &[]).await;
    assert_eq!(said.code, Some(7), "{said:?}");
    assert_eq!(server.stop(&place).await, Some(0));
}
