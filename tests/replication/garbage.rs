//! Servers that are none, or that lie: an error that says so, never a panic or a wait without end.

use crate::support::Place;
use palimpsest::io_abstraction::{Address, Env};
use palimpsest::replication::{ConnStr, Password, ReplicationClient, ReplicationError, SslMode};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// A server that answers the n-th thing it reads with the n-th script and closes after the last, or stays if `stay`.
async fn scripted(env: &Env, scripts: Vec<Vec<u8>>, stay: bool) -> ConnStr {
    let mut listener = env.net.listen(&Address::tcp("127.0.0.1", 0)).await.unwrap();
    let Address::Tcp { host, port } = listener.local_address() else { panic!("not TCP") };
    env.tasks.spawn("scripted server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sink = [0; 4096];
        for script in scripts {
            if stream.read(&mut sink).await.unwrap_or(0) == 0 {
                return;
            }
            // The client may have left by now, as it should.
            let _ = stream.write_all(&script).await;
        }
        while stay && stream.read(&mut sink).await.unwrap_or(0) > 0 {}
    });
    ConnStr {
        host,
        port,
        ssl_mode: SslMode::Disable,
        connect_timeout: Duration::from_secs(2),
        password: Some(Password::new("pw")),
        ..ConnStr::default()
    }
}

async fn stream_error(env: &Env, scripts: Vec<Vec<u8>>) -> ReplicationError {
    let connstr = scripted(env, scripts, false).await;
    let talk = async {
        let client = ReplicationClient::connect(env, &connstr).await?;
        let mut stream = client.start_physical("0/1000000".parse().unwrap(), 1).await?;
        loop {
            stream.next().await?;
        }
    };
    let outcome: Result<(), ReplicationError> = talk.await;
    outcome.unwrap_err()
}

#[tokio::test]
async fn lies_are_named() {
    let env = Place::new().await.env;
    let plain = |scripts: &[&[u8]]| scripts.iter().map(|s| s.to_vec()).collect::<Vec<_>>();
    let in_copy = |after: &[u8]| vec![READY.to_vec(), [b"W\0\0\0\x07\0\0\0", after].concat()];
    let cases: Vec<(Vec<Vec<u8>>, &str)> = vec![
        (plain(&[b"HTTP/1.1 400 Bad Request\r\n"]), "damaged message during authentication"),
        (plain(&[b"\0\0\0\0\0"]), "no PostgreSQL server"),
        (plain(&[b""]), "closed the connection during authentication"),
        (plain(&[b"R\0\0\0\x04"]), "cut short"),
        (plain(&[b"R\0\0\0\x08\0\0\0\x07"]), "GSSAPI authentication"),
        (plain(&[b"R\0\0\0\x0e\0\0\0\x0aNEW\0\0\0"]), "NEW authentication"),
        // An impostor that lets everybody in after SCRAM has begun.
        (plain(&[b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", READY]), "failed to prove that it knows the password"),
        (plain(&[b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", b"R\0\0\0\x0b\0\0\0\x0bxyz"]), "failed to prove"),
        (plain(&[b"R\0\0\0\x08\0\0\0\0Q\0\0\0\x04"]), "type 'Q'"),
        (plain(&[READY, b"Z\0\0\0\x05I"]), "type 'Z'"),
        (plain(&[READY, b"E\0\0\0\x04"]), "refused START_REPLICATION"),
        (in_copy(b"d\0\0\0\x05x"), "makes no sense"),
        (in_copy(b"d\0\0\0\x05w"), "cut short"),
        (in_copy(b"d\x7f\xff\xff\xff"), "claims a length"),
        (in_copy(b"d\0\0\0\x20w"), "closed the connection during START_REPLICATION"),
        (in_copy(b"C\0\0\0\x0bCOPY 0\0"), "shutting down"),
        (in_copy(b"c\0\0\0\x04D\0\0\0\x06\0\0Z\0\0\0\x05I"), "shutting down"),
    ];
    for (scripts, want) in cases {
        let error = stream_error(&env, scripts.clone()).await.to_string();
        assert!(error.contains(want) && error.contains("127.0.0.1"), "{scripts:?}: {error}");
    }
}

#[tokio::test]
async fn silence_has_a_limit() {
    let env = Place::new().await.env;
    let connstr = scripted(&env, Vec::new(), true).await;
    let error = ReplicationClient::connect(&env, &connstr).await.err().unwrap();
    assert!(matches!(error, ReplicationError::Timeout { .. }) && error.is_transient(), "{error}");
    let connstr = scripted(&env, vec![b"x".to_vec()], true).await;
    let error = ReplicationClient::connect(&env, &ConnStr { ssl_mode: SslMode::Require, ..connstr }).await.err().unwrap();
    assert!(error.to_string().contains("no PostgreSQL server"), "{error}");
}
