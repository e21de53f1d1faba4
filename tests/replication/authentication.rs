//! Passwords and TLS against a real server.

use crate::support::Place;
use palimpsest::io_abstraction::disk;
use palimpsest::postgres::{Server, SqlClient, StopMode};
use palimpsest::replication::{ConnStr, Password, ReplicationClient, ReplicationError, SslMode};
use std::path::Path;

/// First match wins, as in every pg_hba.conf.
const HBA: &str = "\
local all,replication postgres trust
host all,replication scram 127.0.0.1/32 scram-sha-256
host all,replication md5 127.0.0.1/32 md5
host all,replication clear 127.0.0.1/32 password
host all,replication trusted 127.0.0.1/32 trust
hostssl all,replication tlsonly 127.0.0.1/32 trust
hostnossl all,replication plainonly 127.0.0.1/32 trust
";

fn write(place: &Place, path: &Path, text: &str) {
    disk::write_file_durably(place.env.disk.as_ref(), path, text.as_bytes()).unwrap();
}

async fn secure_server(place: &Place, tls: bool) -> Server {
    let data_dir = place.cluster("p").await;
    write(place, &data_dir.join("pg_hba.conf"), HBA);
    let mut spec = place.spec("p").port(place.free_port().await);
    if tls {
        let certified = rcgen::generate_simple_self_signed(vec!["db.example".to_string(), "127.0.0.1".to_string()]).unwrap();
        write(place, &data_dir.join("server.crt"), &certified.cert.pem());
        write(place, &data_dir.join("server.key"), &certified.signing_key.serialize_pem());
        write(place, &place.path("root.crt"), &certified.cert.pem());
        let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_string()]).unwrap();
        write(place, &place.path("other.crt"), &other.cert.pem());
        spec = spec.set("ssl", "on");
    }
    let server = place.start(spec).await;
    let mut sql = server.sql().await.unwrap();
    sql.execute(
        "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'p''w'; CREATE ROLE clear LOGIN REPLICATION PASSWORD 'cl'; \
         SET password_encryption = md5; CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'm5'; \
         CREATE ROLE trusted LOGIN REPLICATION; CREATE ROLE tlsonly LOGIN REPLICATION; CREATE ROLE plainonly LOGIN REPLICATION",
    )
    .await
    .unwrap();
    server
}

fn conn(server: &Server, user: &str, password: Option<&str>, mode: SslMode) -> ConnStr {
    let tcp = server.tcp_conn_str().unwrap();
    ConnStr { user: user.to_string(), password: password.map(Password::new), ssl_mode: mode, ..tcp }
}

/// Connects for replication and for SQL; gives whether the SQL connection was encrypted.
async fn log_in(place: &Place, connstr: &ConnStr) -> Result<bool, ReplicationError> {
    ReplicationClient::connect(&place.env, connstr).await?.identify_system().await?;
    let mut sql = SqlClient::connect(&place.env, connstr).await?;
    let ssl = sql.query_value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await?;
    Ok(ssl.as_deref() == Some("t"))
}

#[tokio::test]
async fn passwords() {
    let place = Place::new().await;
    let server = secure_server(&place, false).await;
    for (user, password) in [("scram", Some("p'w")), ("md5", Some("m5")), ("clear", Some("cl")), ("trusted", None)] {
        for mode in [SslMode::Disable, SslMode::Prefer] {
            let encrypted = log_in(&place, &conn(&server, user, password, mode)).await.unwrap_or_else(|e| panic!("{user}: {e}"));
            assert!(!encrypted);
        }
    }
    for user in ["scram", "md5", "clear"] {
        let error = log_in(&place, &conn(&server, user, Some("wrong-secret"), SslMode::Disable)).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.sqlstate(), Some("28P01"), "{text}");
        assert!(text.contains("127.0.0.1") && text.contains("correct the password") && !text.contains("wrong-secret"), "{text}");
        assert!(!error.is_transient());
        let error = log_in(&place, &conn(&server, user, None, SslMode::Disable)).await.unwrap_err();
        assert!(matches!(error, ReplicationError::PasswordNeeded { .. }), "{error}");
    }
    let error = log_in(&place, &conn(&server, "stranger", None, SslMode::Disable)).await.unwrap_err();
    assert!(error.to_string().contains("pg_hba.conf") && !error.is_transient(), "{error}");
    let error = log_in(&place, &conn(&server, "trusted", None, SslMode::Require)).await.unwrap_err();
    assert!(matches!(error, ReplicationError::TlsRefused { .. }), "{error}");
    let nobody = ConnStr { port: place.free_port().await, ..conn(&server, "trusted", None, SslMode::Disable) };
    let error = log_in(&place, &nobody).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("cannot connect to 127.0.0.1"), "{error}");
    server.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn tls_by_sslmode() {
    let place = Place::new().await;
    let server = secure_server(&place, true).await;
    let check = async |user: &str, mode: SslMode, root: Option<&str>, host: &str, want: Result<bool, &str>| {
        let connstr =
            ConnStr { ssl_root_cert: root.map(|r| place.path(r)), host: host.to_string(), ..conn(&server, user, Some("p'w"), mode) };
        let got = log_in(&place, &connstr).await;
        match want {
            Ok(encrypted) => assert_eq!(got.unwrap_or_else(|e| panic!("{connstr}: {e}")), encrypted, "{connstr}"),
            Err(text) => {
                let error = got.expect_err(&connstr.to_string()).to_string();
                assert!(error.contains(text), "{connstr}: {error}");
            }
        }
    };
    use SslMode::*;
    for (mode, encrypted) in [(Disable, false), (Allow, false), (Prefer, true), (Require, true)] {
        check("scram", mode, None, "127.0.0.1", Ok(encrypted)).await;
    }
    check("tlsonly", Allow, None, "127.0.0.1", Ok(true)).await;
    check("tlsonly", Disable, None, "127.0.0.1", Err("pg_hba.conf")).await;
    check("plainonly", Prefer, None, "127.0.0.1", Ok(false)).await;
    check("plainonly", Require, None, "127.0.0.1", Err("pg_hba.conf")).await;
    check("scram", VerifyCa, Some("root.crt"), "127.0.0.1", Ok(true)).await;
    check("scram", VerifyFull, Some("root.crt"), "127.0.0.1", Ok(true)).await;
    check("scram", VerifyCa, Some("root.crt"), "localhost", Ok(true)).await;
    check("scram", VerifyFull, Some("root.crt"), "localhost", Err("TLS with localhost")).await;
    check("scram", VerifyCa, Some("other.crt"), "127.0.0.1", Err("TLS with 127.0.0.1")).await;
    check("scram", Require, Some("other.crt"), "127.0.0.1", Err("TLS with 127.0.0.1")).await;
    check("scram", VerifyFull, None, "127.0.0.1", Err("needs sslrootcert")).await;
    check("scram", VerifyFull, Some("absent.crt"), "127.0.0.1", Err("cannot be read")).await;
    check("scram", VerifyFull, Some("p/pg_hba.conf"), "127.0.0.1", Err("holds no PEM certificate")).await;
    server.stop(StopMode::Fast).await.unwrap();
}
