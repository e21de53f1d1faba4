//! Settings of who may talk to the node: authentication and TLS of both listeners, and which addresses need them.
//!
//! Invariant: settings that pass [`Config::check_access`] let nobody in from another machine without a token and without TLS,
//! unless `listen_insecurely` says so.

use super::{Config, ConfigError};
use crate::io_abstraction::Address;
use serde::{Deserialize, Serialize};

/// How a listener knows who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthType {
    /// Everybody may do everything.
    Trust,
    /// Whoever shows a token that one of the keys has signed may do what the token says.
    #[serde(rename = "NeonJWT")]
    Jwt,
}

/// Whether the page service takes clients without TLS when it has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageTls {
    /// They are told to connect with TLS.
    Require,
    /// They are served.
    Allow,
}

/// What one listener has.
struct Door {
    key: &'static str,
    auth_key: &'static str,
    address: Address,
    auth: AuthType,
    tls: bool,
}

impl Config {
    fn doors(&self) -> Result<[Door; 2], ConfigError> {
        let tls = self.ssl_cert_file.is_some();
        let http =
            Door { key: "listen_http_addr", auth_key: "http_auth_type", address: self.http_address()?, auth: self.http_auth_type, tls };
        let pages = Door {
            key: "listen_pg_addr",
            auth_key: "pg_auth_type",
            address: self.pages_address()?,
            auth: self.pg_auth_type,
            tls: tls && self.pg_tls == PageTls::Require,
        };
        Ok([http, pages])
    }

    /// Refuses settings that contradict each other, and listeners that let strangers in.
    pub(super) fn check_access(&self) -> Result<(), ConfigError> {
        if self.needs_keys() && self.auth_validation_public_key_path.is_none() {
            return Err(ConfigError::Lacking {
                key: "http_auth_type or pg_auth_type = \"NeonJWT\"",
                lacks: "auth_validation_public_key_path: the public key, or a directory of them, that `pal keygen` writes",
            });
        }
        match (&self.ssl_cert_file, &self.ssl_key_file) {
            (Some(_), None) => return Err(ConfigError::Lacking { key: "ssl_cert_file", lacks: "ssl_key_file: the certificate's key" }),
            (None, Some(_)) => return Err(ConfigError::Lacking { key: "ssl_key_file", lacks: "ssl_cert_file: the key's certificate" }),
            _ => {}
        }
        if self.listen_insecurely {
            return Ok(());
        }
        self.exposed()?.into_iter().next().map_or(Ok(()), Err)
    }

    /// Whether a listener asks for tokens.
    pub fn needs_keys(&self) -> bool {
        [self.http_auth_type, self.pg_auth_type].contains(&AuthType::Jwt)
    }

    /// The listeners that other machines reach without a token or without TLS, as errors that say what each lacks.
    pub fn exposed(&self) -> Result<Vec<ConfigError>, ConfigError> {
        let doors = self.doors()?.into_iter().filter(|door| !is_loopback(&door.address));
        let lacking = doors.filter(|door| door.auth == AuthType::Trust || !door.tls);
        Ok(lacking.map(|door| ConfigError::Exposed { key: door.key, lacks: lacks(&door), address: door.address }).collect())
    }
}

fn lacks(door: &Door) -> String {
    let mut lacks = Vec::new();
    if door.auth == AuthType::Trust {
        lacks.push(format!("authentication ({} = \"NeonJWT\" and auth_validation_public_key_path)", door.auth_key));
    }
    if !door.tls {
        let plain = if door.key == "listen_pg_addr" { ", and pg_tls = \"require\"" } else { "" };
        lacks.push(format!("TLS (ssl_cert_file and ssl_key_file{plain})"));
    }
    lacks.join(" and ")
}

/// Settings that come from outside may name no other address without saying how strangers are kept out; the simulator, whose
/// hosts have addresses of their own, builds its settings itself.
fn is_loopback(address: &Address) -> bool {
    match address {
        Address::Tcp { host, .. } => host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Address::Unix(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TLS: [&str; 2] = ["ssl_cert_file = '/c.pem'", "ssl_key_file = '/k.pem'"];
    const KEYS: &str = "auth_validation_public_key_path = '/keys'";
    const HTTP: [&str; 2] = ["listen_http_addr = '0.0.0.0:1'", "http_auth_type = 'NeonJWT'"];
    const PAGES: [&str; 2] = ["listen_pg_addr = '[::]:1'", "pg_auth_type = 'NeonJWT'"];

    fn load(settings: &[&[&str]]) -> Result<Config, String> {
        let overrides: Vec<String> = settings.concat().iter().map(|s| s.to_string()).collect();
        Config::load(Path::new("/d"), None, &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn strangers_are_kept_out_or_let_in_on_purpose() {
        for accepted in [
            &[&["listen_http_addr = '[::1]:1'"][..], &["listen_pg_addr = 'localhost:1'"]][..],
            &[&HTTP, &[KEYS], &TLS],
            &[&PAGES, &[KEYS], &TLS],
            &[&HTTP, &PAGES, &[KEYS], &TLS],
            &[&["http_auth_type = 'NeonJWT'"], &[KEYS]],
            &[&TLS, &["pg_tls = 'allow'"]],
            &[&["listen_http_addr = '0.0.0.0:1'", "listen_pg_addr = 'example.org:1'", "listen_insecurely = true"]],
        ] {
            load(accepted).unwrap_or_else(|error| panic!("{accepted:?}: {error}"));
        }
        for (refused, parts) in [
            (&[&HTTP[..1]][..], &["listen_http_addr = 0.0.0.0:1", "http_auth_type", "ssl_cert_file", "127.0.0.1", "listen_insecurely"][..]),
            (&[&["listen_pg_addr = '10.0.0.1:1'"]], &["listen_pg_addr = 10.0.0.1:1", "pg_auth_type", "ssl_cert_file"]),
            (&[&["listen_pg_addr = 'example.org:1'"]], &["example.org:1"]),
            (&[&HTTP, &[KEYS]], &["needs TLS ("]),
            (&[&PAGES, &[KEYS]], &["needs TLS ("]),
            (&[&PAGES, &[KEYS], &TLS, &["pg_tls = 'allow'"]], &["pg_tls = \"require\""]),
            (&[&HTTP[..1], &TLS], &["needs authentication (http_auth_type"]),
            (&[&HTTP, &TLS], &["auth_validation_public_key_path"]),
            (&[&["pg_auth_type = 'NeonJWT'"]], &["auth_validation_public_key_path", "pal keygen"]),
            (&[&TLS[..1]], &["ssl_key_file"]),
            (&[&TLS[1..]], &["ssl_cert_file"]),
            (&[&["http_auth_type = 'MD5'"]], &["NeonJWT"]),
            (&[&["pg_tls = 'perhaps'"]], &["require"]),
        ] {
            let error = load(refused).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{refused:?}: {error}");
        }
        let exposed = load(&[&HTTP[..1], &["listen_insecurely = true"]]).unwrap().exposed().unwrap();
        assert!(matches!(&exposed[..], [ConfigError::Exposed { key: "listen_http_addr", .. }]), "{exposed:?}");
    }
}
