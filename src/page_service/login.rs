//! The login: startup packet, TLS, a token as the password; then what the token permits, asked before every command.
//!
//! Invariants: before TLS is there nothing but the request for it is taken, so nothing that was slipped in before counts as
//! encrypted; no command runs before [`Connection::permission`] is there.
//! Source: PostgreSQL 15 documentation, sections 55.2.1, 55.2.10 and 55.7.

use super::connection::{CommandFailure, Connection, ConnectionError, sqlstate};
use super::protocol::Command;
use crate::auth::{Auth, Permission};
use crate::io_abstraction::ClockExt as _;
use crate::pg::wire::{self, Frontend, StartupPacket, TransactionStatus};
use crate::tls::TlsServer;
use std::sync::Arc;
use std::time::Duration;

/// Options of the protocol itself begin so. Source: PostgreSQL 15 documentation, section 55.2.1.
const PROTOCOL_OPTION: &str = "_pq_.";
/// How long a client may take to show what it is asked for: strangers must not hold connections for as long as others may.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);

impl Connection {
    /// Lets the client in; false if it only wanted to cancel something or left.
    pub(super) async fn log_in(&mut self) -> Result<bool, ConnectionError> {
        if self.guard.auth.is_none() && self.guard.tls.is_none() {
            return self.greet().await;
        }
        let clock = self.env.clock.clone();
        clock.timeout(LOGIN_LIMIT, self.greet()).await.map_err(|_| ConnectionError::Idle)?
    }

    /// Answers the startup packet and asks for whatever the guard wants.
    async fn greet(&mut self) -> Result<bool, ConnectionError> {
        loop {
            let Some(packet) = wire::take_startup(&mut self.input)? else {
                if !self.fill().await? {
                    return Ok(false);
                }
                continue;
            };
            match (packet, self.guard.tls.clone()) {
                (StartupPacket::Ssl, Some(tls)) if !self.encrypted => {
                    self.encrypt(&tls).await?;
                }
                (StartupPacket::Ssl | StartupPacket::GssEnc, _) => {
                    self.output.extend_from_slice(&[wire::REFUSE_ENCRYPTION]);
                    self.flush().await?;
                }
                (StartupPacket::Cancel { .. }, _) => return Ok(false),
                (StartupPacket::Startup { minor, parameters }, _) => {
                    if self.guard.tls_required && !self.encrypted {
                        return Err(refused(sqlstate::INVALID_AUTHORIZATION, "must connect with TLS: use sslmode=require or stricter"));
                    }
                    let names = parameters.iter().map(|(name, _)| name.as_str());
                    let unknown: Vec<&str> = names.filter(|name| name.starts_with(PROTOCOL_OPTION)).collect();
                    if minor > 0 || !unknown.is_empty() {
                        wire::put_negotiate_protocol_version(&mut self.output, &unknown);
                    }
                    break;
                }
            }
        }
        if let Some(auth) = self.guard.auth.clone() {
            match self.ask_for_token(&auth).await? {
                None => return Ok(false),
                permission => self.permission = permission,
            }
        }
        wire::put_authentication_ok(&mut self.output);
        for (name, value) in [("client_encoding", "UTF8"), ("integer_datetimes", "on"), ("server_version", "15.0")] {
            wire::put_parameter_status(&mut self.output, name, value);
        }
        wire::put_ready_for_query(&mut self.output, TransactionStatus::Idle);
        self.flush().await?;
        Ok(true)
    }

    /// Says yes to the request for TLS and does the handshake.
    async fn encrypt(&mut self, tls: &TlsServer) -> Result<(), ConnectionError> {
        if !self.input.is_empty() {
            return Err(refused(sqlstate::PROTOCOL_VIOLATION, "received unencrypted data after the request for TLS"));
        }
        self.output.extend_from_slice(&[wire::ACCEPT_TLS]);
        self.flush().await?;
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = tls.accept(plain).await?;
        self.encrypted = true;
        Ok(())
    }

    /// Asks for the password, which is a token; `None` if the client left.
    async fn ask_for_token(&mut self, auth: &Arc<Auth>) -> Result<Option<Permission>, ConnectionError> {
        wire::put_authentication_cleartext(&mut self.output);
        self.flush().await?;
        let password = match self.message().await? {
            None | Some(Frontend::Terminate) => return Ok(None),
            Some(Frontend::Password(bytes)) => bytes,
            Some(_) => return Err(refused(sqlstate::PROTOCOL_VIOLATION, "expected a password message")),
        };
        let text = password.strip_suffix(b"\0").unwrap_or(&password);
        let verified = std::str::from_utf8(text).map_err(|_| "the password is not a token".to_string());
        let verified = verified.and_then(|token| auth.verify(token).map_err(|error| format!("the password is not a valid token: {error}")));
        verified.map(Some).map_err(|why| {
            auth.count_refusal("pages");
            refused(sqlstate::INVALID_PASSWORD, &format!("authentication failed: {why}"))
        })
    }

    /// Whether the client may give this command.
    pub(super) fn permit(&self, command: &Command) -> Result<(), CommandFailure> {
        let Some(tenant) = command.tenant() else { return Ok(()) };
        match self.permission {
            Some(permission) if permission.covers(Some(tenant)) => Ok(()),
            permission => {
                if let Some(auth) = &self.guard.auth {
                    auth.count_refusal("pages");
                }
                let own = match permission {
                    Some(Permission::Tenant(own)) => format!("tenant {own}"),
                    _ => "nothing".to_string(),
                };
                let message = format!("Tenant id mismatch. Permission denied: the token is for {own}, the command for tenant {tenant}");
                Err(CommandFailure::new(sqlstate::INSUFFICIENT_PRIVILEGE, message))
            }
        }
    }
}

fn refused(sqlstate: &'static str, message: &str) -> ConnectionError {
    ConnectionError::Refused { sqlstate, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Guard, SigningKey};
    use crate::io_abstraction::disk::write_file_durably;
    use crate::tenant::Registry;
    use crate::timeline::testing;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_types, reason = "the time that the paused runtime let pass")]
    async fn a_client_that_shows_nothing_is_dropped_soon() {
        let (env, directory) = (testing::memory_env(), tempfile::tempdir().unwrap());
        let path = directory.path().join("key.pem");
        write_file_durably(&*env.disk, &path, SigningKey::from_seed(&[1; 32]).public_pem().as_bytes()).unwrap();
        let guard = Arc::new(Guard { auth: Some(Arc::new(Auth::load(&env, &path).unwrap())), ..Guard::default() });
        let registry = Registry::new(testing::shared(&env, directory.path(), |_| {}));
        for startup in [&b""[..], b"\0\0\0\x09\0\x03\0\0\0"] {
            let (mut client, stream) = tokio::io::duplex(1024);
            client.write_all(startup).await.unwrap();
            let connection = Connection::new(env.clone(), registry.clone(), guard.clone(), Box::new(stream));
            let begin = tokio::time::Instant::now();
            let ended = connection.run(&CancellationToken::new()).await;
            assert!(matches!(ended, Err(ConnectionError::Idle)), "{ended:?}");
            assert!(begin.elapsed() < LOGIN_LIMIT + Duration::from_secs(5), "{:?}", begin.elapsed());
            let mut said = Vec::new();
            client.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, if startup.is_empty() { &b""[..] } else { b"R\0\0\0\x08\0\0\0\x03" });
        }
    }
}
