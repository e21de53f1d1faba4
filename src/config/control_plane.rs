//! Settings of the control plane, which says of several nodes which one has a tenant.

use super::{Config, ConfigError};
use crate::io_abstraction::Address;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A setting that prints as stars.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the paths of the control plane begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpcallUrl {
    pub tls: bool,
    pub address: Address,
    /// Empty, or with a slash in front and none behind.
    pub path: String,
}

impl fmt::Display for UpcallUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.tls { "s" } else { "" }, self.address, self.path)
    }
}

impl UpcallUrl {
    /// Reads `http://HOST[:PORT][/PATH]` or `https://…`. Errors: what is wrong with it.
    fn parse(text: &str) -> Result<UpcallUrl, &'static str> {
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err("expected http://HOST:PORT/PATH or https://HOST:PORT/PATH"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.trim_end_matches('/');
        if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%".contains(&b)) {
            return Err("the path holds characters that no path has, or a query");
        }
        let default_port = if tls { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0).ok_or("the port is not a number from 1 to 65535")?;
                (host, port)
            }
            _ => (authority, default_port),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bare {
            Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        if !valid {
            return Err("the host is not a name or an address (an IPv6 address stands in brackets)");
        }
        Ok(UpcallUrl { tls, address: Address::tcp(bare.unwrap_or(host), port), path: path.to_string() })
    }
}

impl Config {
    /// Where the control plane is; `None`: this node has none.
    pub fn control_plane(&self) -> Result<Option<UpcallUrl>, ConfigError> {
        let Some(text) = &self.control_plane_api else { return Ok(None) };
        let invalid = |reason| ConfigError::Invalid { key: "control_plane_api", value: text.clone(), reason };
        UpcallUrl::parse(text).map(Some).map_err(invalid)
    }

    pub(super) fn check_control_plane(&self) -> Result<(), ConfigError> {
        const URL: &str = "control_plane_api: the URL that /re-attach and /validate lie under";
        let Some(url) = self.control_plane()? else {
            let orphans = [
                ("control_plane_api_token", self.control_plane_api_token.is_some()),
                ("control_plane_api_ca", self.control_plane_api_ca.is_some()),
                ("control_plane_emergency_mode", self.control_plane_emergency_mode),
            ];
            let orphan = orphans.into_iter().find(|(_, is_set)| *is_set);
            return orphan.map_or(Ok(()), |(key, _)| Err(ConfigError::Lacking { key, lacks: URL }));
        };
        if self.control_plane_api_token.as_ref().is_some_and(|token| !token.expose().bytes().all(|b| b.is_ascii_graphic())) {
            let reason = "the token holds characters that no token has";
            return Err(ConfigError::Invalid { key: "control_plane_api_token", value: "***".to_string(), reason });
        }
        match (url.tls, &self.control_plane_api_ca) {
            (true, None) => {
                let lacks = "control_plane_api_ca: the certificates that have signed the control plane's, or its own";
                Err(ConfigError::Lacking { key: "control_plane_api with https://", lacks })
            }
            (false, Some(_)) => Err(ConfigError::Lacking { key: "control_plane_api_ca", lacks: "an https:// URL in control_plane_api" }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn urls() {
        let tcp = Address::tcp;
        for (text, wanted) in [
            ("http://127.0.0.1:1234/upcall/v1", Some((false, tcp("127.0.0.1", 1234), "/upcall/v1"))),
            ("http://127.0.0.1:1234/upcall/v1/", Some((false, tcp("127.0.0.1", 1234), "/upcall/v1"))),
            ("https://plane.example.org", Some((true, tcp("plane.example.org", 443), ""))),
            ("http://[::1]/", Some((false, tcp("::1", 80), ""))),
            ("http://[::1]:7/x", Some((false, tcp("::1", 7), "/x"))),
            ("127.0.0.1:1234", None),
            ("ftp://h:1", None),
            ("http://", None),
            ("http://:1", None),
            ("http://h:0", None),
            ("http://h:65536", None),
            ("http://user:secret@h:1", None),
            ("http://h:1/x?y=z", None),
            ("http://h:1/x y", None),
            ("http://h:1/x\r\ny", None),
        ] {
            let url = UpcallUrl::parse(text).ok();
            let found = url.as_ref().map(|url| (url.tls, url.address.clone(), url.path.as_str()));
            assert_eq!(found, wanted, "{text}");
        }
        assert_eq!(UpcallUrl::parse("https://[::1]:7/x/").unwrap().to_string(), "https://[::1]:7/x");
    }

    #[test]
    fn settings_that_belong_together() {
        let load = |settings: &[&str]| {
            let overrides: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
            Config::load(Path::new("/d"), None, &overrides).map_err(|error| error.to_string())
        };
        let (http, https) = ("control_plane_api = 'http://h:1'", "control_plane_api = 'https://h:1'");
        let (token, ca) = ("control_plane_api_token = 'se.cr-et'", "control_plane_api_ca = '/ca.pem'");
        let emergency = "control_plane_emergency_mode = true";
        for accepted in [&[][..], &["id = 7"], &[http], &[http, token, emergency], &[https, ca, token]] {
            let config = load(accepted).unwrap_or_else(|error| panic!("{accepted:?}: {error}"));
            assert!(!format!("{config:?}").contains("se.cr-et"));
        }
        for (refused, part) in [
            (&["control_plane_api = 'h:1'"][..], "expected http://"),
            (&[token], "control_plane_api_token needs control_plane_api"),
            (&[ca], "control_plane_api_ca needs control_plane_api"),
            (&[emergency], "control_plane_emergency_mode needs control_plane_api"),
            (&[https], "control_plane_api_ca"),
            (&[http, ca], "https://"),
            (&[http, "control_plane_api_token = \"secret\\nx\""], "no token has"),
            (&["id = -1"], "settings"),
        ] {
            let error = load(refused).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{refused:?}: {error}");
        }
    }
}
