//! Answers in tables, and a client against a listener that says what it likes.

use super::answer::{re_attached, validated};
use super::client::ANSWER_MAX;
use super::*;
use crate::config::Config;
use crate::io_abstraction::disk::write_file_durably;
use crate::io_abstraction::{Address, Env, real};
use crate::tls::TlsServer;
use crate::types::{AttachMode, Generation, TenantId};
use object_store::memory::InMemory;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

const A: TenantId = TenantId([0xaa; 16]);
const B: TenantId = TenantId([0xbb; 16]);

/// Writes `A` and `B` out.
fn named(text: &str) -> String {
    text.replace("$A", &A.to_string()).replace("$B", &B.to_string())
}

#[test]
fn what_re_attach_may_answer() {
    let attached = |mode, generation| Assigned::Attached { mode, generation: Generation(generation) };
    for (text, wanted) in [
        (r#"{"tenants":[]}"#, vec![]),
        (r#"{"tenants":[{"id":"$A","gen":1}]}"#, vec![(A, attached(AttachMode::Single, 1))]),
        (r#"{"tenants":[{"id":"$A","gen":1,"mode":null}]}"#, vec![(A, attached(AttachMode::Single, 1))]),
        (
            r#"{"tenants":[{"id":"$B","gen":4294967295,"mode":"AttachedMulti"},{"id":"$A","gen":3,"mode":"AttachedStale"}]}"#,
            vec![(A, attached(AttachMode::Stale, 3)), (B, attached(AttachMode::Multi, u32::MAX))],
        ),
        (r#"{"tenants":[{"id":"$A","mode":"Secondary","gen":null}]}"#, vec![(A, Assigned::Secondary)]),
        (r#"{"tenants":[{"id":"$A","gen":1,"color":"red"}],"weather":"fine"}"#, vec![(A, attached(AttachMode::Single, 1))]),
    ] {
        assert_eq!(re_attached(named(text).as_bytes()), Ok(wanted.into_iter().collect()), "{text}");
    }
    for (text, part) in [
        ("", "EOF"),
        ("null", "docs/control-plane.md"),
        ("{}", "missing field"),
        (r#"{"tenants":[{"id":"$A","gen":1}"#, "EOF"),
        (r#"{"tenants":[{"id":"$A","gen":1}]} and more"#, "trailing"),
        (r#"{"tenants":[{"id":"$A-0102","gen":1}]}"#, "not a tenant id"),
        (r#"{"tenants":[{"gen":1}]}"#, "missing field"),
        (r#"{"tenants":[{"id":"$A","gen":-1}]}"#, "-1"),
        (r#"{"tenants":[{"id":"$A","gen":4294967296}]}"#, "4294967296"),
        (r#"{"tenants":[{"id":"$A","gen":"1"}]}"#, "string"),
        (r#"{"tenants":[{"id":"$A","gen":1,"mode":"Elsewhere"}]}"#, "Elsewhere"),
        (r#"{"tenants":[{"id":"$A"}]}"#, "no generation for tenant aa"),
        (r#"{"tenants":[{"id":"$A","gen":1},{"id":"$B","gen":1},{"id":"$A","gen":2}]}"#, "tenant aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa twice"),
    ] {
        let error = re_attached(named(text).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let long = format!(r#"{{"tenants":[{{"id":"{}"}}]}}"#, "x\\n".repeat(100_000));
    let error = re_attached(long.as_bytes()).unwrap_err().to_string();
    assert!(error.len() < 400 && !error.contains('\n'), "{error}");
}

#[test]
fn what_validate_may_answer() {
    let asked = [(A, Generation(1)), (B, Generation(2))];
    for (text, wanted) in [
        (r#"{"tenants":[{"id":"$A","valid":true},{"id":"$B","valid":false}]}"#, vec![A]),
        (r#"{"tenants":[{"id":"$B","valid":true},{"id":"$A","valid":true,"why":"so"}]}"#, vec![A, B]),
        (r#"{"tenants":[{"id":"$A","valid":false}]}"#, vec![]),
        (r#"{"tenants":[]}"#, vec![]),
    ] {
        assert_eq!(validated(&asked, named(text).as_bytes()), Ok(BTreeSet::from_iter(wanted)), "{text}");
    }
    for (text, part) in [
        (
            r#"{"tenants":[{"id":"cccccccccccccccccccccccccccccccc","valid":true}]}"#,
            "tenant cccccccccccccccccccccccccccccccc, which was not asked",
        ),
        (r#"{"tenants":[{"id":"$A","valid":true},{"id":"$A","valid":false}]}"#, "twice"),
        (r#"{"tenants":[{"id":"$A"}]}"#, "valid"),
        (r#"{"tenants":[{"id":"$A","valid":1}]}"#, "boolean"),
        ("[]", "docs/control-plane.md"),
    ] {
        let error = validated(&asked, named(text).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

/// Listens, answers each connection with the next of these bytes, and gives what it was sent. `None`: never answers.
async fn listener(env: &Env, answers: Vec<Option<Vec<u8>>>) -> (u16, mpsc::UnboundedReceiver<String>) {
    listener_with(env, answers, None).await
}

async fn listener_with(env: &Env, answers: Vec<Option<Vec<u8>>>, tls: Option<TlsServer>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let mut listener = env.net.listen(&Address::tcp("127.0.0.1", 0)).await.unwrap();
    let Address::Tcp { port, .. } = listener.local_address() else { panic!("it listens on TCP") };
    let (sender, receiver) = mpsc::unbounded_channel();
    env.tasks.spawn("listener", async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(tls) = &tls {
                // The client may not like the certificate.
                let Ok(encrypted) = tls.accept(stream).await else { continue };
                stream = encrypted;
            }
            let mut request = String::new();
            while !request.ends_with("}") {
                let mut some = [0; 4096];
                let len = stream.read(&mut some).await.unwrap();
                assert!(len > 0, "cut off after {request}");
                request.push_str(std::str::from_utf8(&some[..len]).unwrap());
            }
            // The test may have seen enough.
            let _ = sender.send(request);
            match answer {
                // The client may hang up at what it does not like.
                Some(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                }
                None => std::future::pending().await,
            }
        }
    });
    (port, receiver)
}

fn client(env: &Env, url: &str, more: &[&str]) -> ControlPlane {
    let settings = [&[format!("control_plane_api = '{url}'")][..], &more.iter().map(ToString::to_string).collect::<Vec<_>>()].concat();
    let config = Config::load(Path::new("/d"), None, &settings).unwrap();
    ControlPlane::new(env, &config).unwrap().expect("there is a control plane")
}

fn answer(status: &str, body: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

fn memory() -> Env {
    real::env(Arc::new(InMemory::new())).unwrap()
}

#[tokio::test]
async fn requests_say_who_asks_for_what() {
    let env = memory();
    let valid = named(r#"{"tenants":[{"id":"$A","valid":true}]}"#);
    let (port, mut requests) = listener(&env, vec![answer("200 OK", r#"{"tenants":[]}"#), answer("200 OK", &valid)]).await;
    let url = format!("http://127.0.0.1:{port}/upcall/v1/");
    let plane = client(&env, &url, &["control_plane_api_token = 'se.cr-et'", "id = 7"]);
    assert!(plane.re_attach().await.unwrap().is_empty());
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /upcall/v1/re-attach HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"node_id\":7}"), "{request}");
    for header in ["authorization: Bearer se.cr-et", "content-type: application/json", &format!("host: 127.0.0.1:{port}")] {
        assert!(request.contains(&format!("\r\n{header}\r\n")), "{header}: {request}");
    }
    assert_eq!(plane.validate(&[(A, Generation(9)), (B, Generation(2))]).await.unwrap(), [A].into());
    let body = named(r#"{"tenants":[{"id":"$A","gen":9},{"id":"$B","gen":2}]}"#);
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /upcall/v1/validate HTTP/1.1\r\n") && request.ends_with(&body), "{request}");
    assert!(plane.validate(&[]).await.unwrap().is_empty(), "nobody is asked about nothing");
}

#[tokio::test]
async fn what_cannot_be_used_is_an_error_that_says_what_to_do() {
    let env = memory();
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", ANSWER_MAX + 1, " ".repeat(ANSWER_MAX + 1));
    for (answer, part) in [
        (answer("401 Unauthorized", ""), "control_plane_api_token is not"),
        (answer("403 Forbidden", "no\r\nway"), "control_plane_api_token is not the token that it wants; no  way"),
        (answer("404 Not Found", "{}"), "control_plane_api is not the URL"),
        (answer("500 Internal Server Error", &"x".repeat(1000)), "status 500: x"),
        (answer("204 No Content", ""), "status 204"),
        (answer("307 Temporary Redirect", ""), "status 307"),
        (answer("200 OK", "<html>"), "look whether control_plane_api is the URL of its upcalls"),
        (Some(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "broke"),
        (Some(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"tenants\":".to_vec()), "broke"),
        (Some(Vec::new()), "broke"),
        (Some(huge.into_bytes()), "longer than 16777216 bytes"),
    ] {
        let (port, _requests) = listener(&env, vec![answer]).await;
        let error = client(&env, &format!("http://127.0.0.1:{port}"), &[]).re_attach().await.unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("/re-attach") && error.len() < 700, "{part}: {error}");
    }
    let listener = env.net.listen(&Address::tcp("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_address());
    drop(listener);
    let error = client(&env, &url, &[]).validate(&[(A, Generation(1))]).await.unwrap_err().to_string();
    assert!(error.contains("start it, or set control_plane_api"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_not_waited_for() {
    let env = memory();
    let (port, _requests) = listener(&env, vec![None]).await;
    let error = client(&env, &format!("http://127.0.0.1:{port}"), &[]).re_attach().await.unwrap_err();
    assert!(matches!(error, ControlPlaneError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_start_asks_until_it_is_told() {
    let env = memory();
    let told = named(r#"{"tenants":[{"id":"$A","gen":5}]}"#);
    let answers = vec![answer("503 Service Unavailable", ""), Some(Vec::new()), answer("200 OK", "{"), answer("200 OK", &told)];
    let (port, _requests) = listener(&env, answers).await;
    let assigned = client(&env, &format!("http://127.0.0.1:{port}"), &[]).assigned().await;
    assert_eq!(assigned, [(A, Assigned::Attached { mode: AttachMode::Single, generation: Generation(5) })].into());
}

#[tokio::test]
async fn over_tls_the_certificate_is_looked_at() {
    let env = memory();
    let directory = tempfile::tempdir().unwrap();
    let pair = |name: &str| {
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_string()]).unwrap();
        let texts = [("crt", certified.cert.pem()), ("key", certified.signing_key.serialize_pem())];
        texts.map(|(kind, text)| {
            let path = directory.path().join(format!("{name}.{kind}"));
            write_file_durably(&*env.disk, &path, text.as_bytes()).unwrap();
            path
        })
    };
    let ([own, key], [other, _]) = (pair("own"), pair("other"));
    let tls = TlsServer::load(&env, &own, &key).unwrap();
    let (port, _requests) = listener_with(&env, vec![answer("200 OK", "{}"), answer("200 OK", r#"{"tenants":[]}"#)], Some(tls)).await;
    let url = format!("https://127.0.0.1:{port}");
    let trusting = |ca: &Path| client(&env, &url, &[&format!("control_plane_api_ca = '{}'", ca.display())]);
    let error = trusting(&other).re_attach().await.unwrap_err();
    assert!(matches!(error, ControlPlaneError::Tls { .. }) && error.to_string().contains("control_plane_api_ca has to be"), "{error}");
    assert!(trusting(&own).re_attach().await.unwrap().is_empty());
}
