//! Connection strings as libpq reads them: `host=… port=…` and `postgresql://…`.
//!
//! In: text from a user. Out: a [`ConnStr`]. Invariants: an unknown key is an error that names it, and neither `Display` nor
//! `Debug` ever shows the password.
//! Source: PostgreSQL 15 documentation, section 34.1.1.

use crate::io_abstraction::Address;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Where the socket of a Debian server is: the host when none is given.
pub const DEFAULT_HOST: &str = "/var/run/postgresql";
pub const DEFAULT_PORT: u16 = 5432;
/// The superuser of every cluster made here: the user when none is given.
pub const DEFAULT_USER: &str = "postgres";
/// Used when `connect_timeout` is absent or 0.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const KNOWN_KEYS: &str = "host, port, user, password, dbname, application_name, sslmode, sslrootcert, connect_timeout";

/// A secret that prints as stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(secret: impl Into<String>) -> Password {
        Password(secret.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How TLS is used. Source: PostgreSQL 15 documentation, table 34.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server refuses without.
    Allow,
    /// If the server can.
    #[default]
    Prefer,
    /// Always, whatever the certificate is (with `sslrootcert`: like `verify-ca`, as libpq does).
    Require,
    /// Always, with a certificate signed by `sslrootcert`.
    VerifyCa,
    /// And issued for this host.
    VerifyFull,
}

impl SslMode {
    const NAMES: [(&'static str, SslMode); 6] = [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];

    pub fn name(self) -> &'static str {
        SslMode::NAMES.iter().find(|(_, mode)| *mode == self).map_or("prefer", |(name, _)| name)
    }
}

/// How to reach a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnStr {
    /// Host name, IP address, or the directory of a unix socket (starts with `/`).
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<Password>,
    /// Ignored by physical replication.
    pub dbname: Option<String>,
    pub application_name: Option<String>,
    pub ssl_mode: SslMode,
    /// File with PEM certificates that sign the server's.
    pub ssl_root_cert: Option<PathBuf>,
    /// Limit of connecting and authenticating together.
    pub connect_timeout: Duration,
}

impl Default for ConnStr {
    fn default() -> ConnStr {
        ConnStr {
            host: DEFAULT_HOST.to_string(),
            port: DEFAULT_PORT,
            user: DEFAULT_USER.to_string(),
            password: None,
            dbname: None,
            application_name: None,
            ssl_mode: SslMode::default(),
            ssl_root_cert: None,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        }
    }
}

/// What is wrong with a connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnStrError {
    #[error("connection string has the unknown key \"{0}\": known are {KNOWN_KEYS}")]
    UnknownKey(String),
    #[error("connection string lacks \"=\" after \"{0}\"")]
    MissingEquals(String),
    #[error("connection string ends inside a quoted value of \"{0}\"")]
    UnclosedQuote(String),
    #[error("connection string: {key}={value} is not valid: {expected}")]
    BadValue { key: &'static str, value: String, expected: &'static str },
    #[error("connection URI is malformed: {0}")]
    BadUri(&'static str),
    #[error("connection string names several hosts or ports: give exactly one server")]
    SeveralHosts,
}

impl ConnStr {
    pub fn address(&self) -> Address {
        if self.is_unix() {
            Address::Unix(Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port)))
        } else {
            Address::tcp(&self.host, self.port)
        }
    }

    pub fn is_unix(&self) -> bool {
        self.host.starts_with('/')
    }

    /// The keyword/value form with the password, for a file that only its owner can read (`primary_conninfo`).
    pub fn with_secret(&self) -> String {
        let mut text = self.to_string();
        if let Some(password) = &self.password {
            push_pair(&mut text, "password", password.expose());
        }
        text
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), ConnStrError> {
        // libpq takes an empty value as the default.
        let empty = value.is_empty();
        match key {
            "host" if value.contains(',') => return Err(ConnStrError::SeveralHosts),
            "host" if empty => self.host = DEFAULT_HOST.to_string(),
            "host" => self.host = value,
            "port" if value.contains(',') => return Err(ConnStrError::SeveralHosts),
            "port" if empty => self.port = DEFAULT_PORT,
            "port" => self.port = parse_port(&value)?,
            "user" if empty => self.user = DEFAULT_USER.to_string(),
            "user" => self.user = value,
            "password" => self.password = (!empty).then(|| Password::new(value)),
            "dbname" => self.dbname = (!empty).then_some(value),
            "application_name" => self.application_name = (!empty).then_some(value),
            "sslmode" if empty => self.ssl_mode = SslMode::default(),
            "sslmode" => self.ssl_mode = parse_ssl_mode(&value)?,
            "sslrootcert" => self.ssl_root_cert = (!empty).then(|| PathBuf::from(value)),
            "connect_timeout" => self.connect_timeout = parse_timeout(&value)?,
            other => return Err(ConnStrError::UnknownKey(other.to_string())),
        }
        Ok(())
    }

    fn validate(self) -> Result<ConnStr, ConnStrError> {
        let texts = [Some(&self.host), Some(&self.user), self.dbname.as_ref(), self.application_name.as_ref()];
        if texts.into_iter().flatten().any(|t| t.contains('\0')) || self.password.as_ref().is_some_and(|p| p.0.contains('\0')) {
            return Err(ConnStrError::BadUri("a value contains a zero byte"));
        }
        Ok(self)
    }
}

fn bad(key: &'static str, value: &str, expected: &'static str) -> ConnStrError {
    ConnStrError::BadValue { key, value: value.to_string(), expected }
}

fn parse_port(value: &str) -> Result<u16, ConnStrError> {
    let port = value.trim().parse().ok().filter(|p| *p != 0);
    port.ok_or_else(|| bad("port", value, "expected a number from 1 to 65535"))
}

fn parse_ssl_mode(value: &str) -> Result<SslMode, ConnStrError> {
    let found = SslMode::NAMES.iter().find(|(name, _)| *name == value).map(|(_, mode)| *mode);
    found.ok_or_else(|| bad("sslmode", value, "expected disable, allow, prefer, require, verify-ca or verify-full"))
}

fn parse_timeout(value: &str) -> Result<Duration, ConnStrError> {
    if value.is_empty() {
        return Ok(DEFAULT_CONNECT_TIMEOUT);
    }
    let seconds: i64 = value.trim().parse().map_err(|_| bad("connect_timeout", value, "expected seconds"))?;
    Ok(u64::try_from(seconds).ok().filter(|s| *s > 0).map_or(DEFAULT_CONNECT_TIMEOUT, |s| Duration::from_secs(s.min(86_400))))
}

impl FromStr for ConnStr {
    type Err = ConnStrError;

    fn from_str(text: &str) -> Result<ConnStr, ConnStrError> {
        let text = text.trim();
        let uri = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
        match uri {
            Some(rest) => parse_uri(rest)?.validate(),
            None => parse_keywords(text)?.validate(),
        }
    }
}

fn parse_keywords(text: &str) -> Result<ConnStr, ConnStrError> {
    let mut parsed = ConnStr::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            return Err(ConnStrError::MissingEquals(shorten(key)));
        };
        let (value, after) = take_value(key, after.trim_start())?;
        parsed.set(key, value)?;
        rest = after.trim_start();
    }
    Ok(parsed)
}

/// A word without "=" may be a misplaced password: show little of it.
fn shorten(word: &str) -> String {
    word.chars().take(12).collect()
}

/// Reads a plain or quoted value with backslash escapes; gives it and the rest of the text.
fn take_value<'a>(key: &str, text: &'a str) -> Result<(String, &'a str), ConnStrError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            c if !quoted && c.is_whitespace() => return Ok((value, text.get(at..).unwrap_or_default())),
            c => value.push(c),
        }
    }
    if quoted { Err(ConnStrError::UnclosedQuote(key.to_string())) } else { Ok((value, "")) }
}

/// Parses what follows `postgresql://`.
fn parse_uri(text: &str) -> Result<ConnStr, ConnStrError> {
    let mut parsed = ConnStr::default();
    let (main, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, dbname) = main.split_once('/').unwrap_or((main, ""));
    let (login, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = split_host_port(host_port)?;
    for (key, value) in [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", dbname)] {
        if !value.is_empty() {
            parsed.set(key, percent_decode(value)?)?;
        }
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| ConnStrError::MissingEquals(shorten(pair)))?;
        parsed.set(&percent_decode(key)?, percent_decode(value)?)?;
    }
    Ok(parsed)
}

fn split_host_port(text: &str) -> Result<(&str, &str), ConnStrError> {
    let Some(bracketed) = text.strip_prefix('[') else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        if text.contains(',') {
            return Err(ConnStrError::SeveralHosts);
        }
        return Ok((host, port));
    };
    let (host, after) = bracketed.split_once(']').ok_or(ConnStrError::BadUri("\"[\" without \"]\""))?;
    match after.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if after.is_empty() => Ok((host, "")),
        None => Err(ConnStrError::BadUri("after \"]\" only \":port\" can follow")),
    }
}

fn percent_decode(text: &str) -> Result<String, ConnStrError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(*d).to_digit(16));
        let (Some(hi), Some(lo)) = (digit(), digit()) else {
            return Err(ConnStrError::BadUri("\"%\" must be followed by two hexadecimal digits"));
        };
        bytes.push((hi << 4 | lo) as u8);
    }
    String::from_utf8(bytes).map_err(|_| ConnStrError::BadUri("a value is not UTF-8"))
}

fn push_pair(out: &mut String, key: &str, value: &str) {
    if !out.is_empty() {
        out.push(' ');
    }
    out.push_str(key);
    out.push('=');
    let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
    if plain {
        out.push_str(value);
        return;
    }
    out.push('\'');
    for c in value.chars() {
        if c == '\'' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('\'');
}

/// The keyword/value form, without the password.
impl fmt::Display for ConnStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        push_pair(&mut out, "host", &self.host);
        push_pair(&mut out, "port", &self.port.to_string());
        push_pair(&mut out, "user", &self.user);
        let root = self.ssl_root_cert.as_ref().map(|p| p.display().to_string());
        for (key, value) in [("dbname", &self.dbname), ("application_name", &self.application_name), ("sslrootcert", &root)] {
            if let Some(value) = value {
                push_pair(&mut out, key, value);
            }
        }
        if self.ssl_mode != SslMode::default() {
            push_pair(&mut out, "sslmode", self.ssl_mode.name());
        }
        if self.connect_timeout != DEFAULT_CONNECT_TIMEOUT {
            push_pair(&mut out, "connect_timeout", &self.connect_timeout.as_secs().to_string());
        }
        f.write_str(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &str) {
        let parsed: ConnStr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(parsed.with_secret(), want, "{text}");
        let again: ConnStr = want.parse().unwrap_or_else(|e| panic!("{want}: {e}"));
        assert_eq!(again, parsed, "{text}");
    }

    #[test]
    fn keyword_form() {
        check("", "host=/var/run/postgresql port=5432 user=postgres");
        check("host=h port=5433 user=u dbname=d", "host=h port=5433 user=u dbname=d");
        check("  host = h  user='a b' ", "host=h port=5432 user='a b'");
        check(r"user=a\ b password='it\'s \\'", r"host=/var/run/postgresql port=5432 user='a b' password='it\'s \\'");
        check("host='' port='' user=''", "host=/var/run/postgresql port=5432 user=postgres");
        check("host=/tmp/s sslmode=verify-full sslrootcert=/ca", "host=/tmp/s port=5432 user=postgres sslrootcert=/ca sslmode=verify-full");
        check("connect_timeout=3", "host=/var/run/postgresql port=5432 user=postgres connect_timeout=3");
        check("connect_timeout=0", "host=/var/run/postgresql port=5432 user=postgres");
        check("application_name=palimpsest", "host=/var/run/postgresql port=5432 user=postgres application_name=palimpsest");
    }

    #[test]
    fn uri_form() {
        check("postgresql://", "host=/var/run/postgresql port=5432 user=postgres");
        check("postgres://h", "host=h port=5432 user=postgres");
        check("postgresql://u:p%40s@h:1/d?sslmode=require", "host=h port=1 user=u dbname=d sslmode=require password=p@s");
        check("postgresql://u@[::1]:6000/", "host=::1 port=6000 user=u");
        check("postgresql://%2Ftmp%2Fsock/d", "host=/tmp/sock port=5432 user=postgres dbname=d");
        check("postgresql:///d?host=/tmp&port=7", "host=/tmp port=7 user=postgres dbname=d");
        check("postgresql://u:a:b@h", "host=h port=5432 user=u password=a:b");
    }

    #[test]
    fn mistakes_name_the_place() {
        for (text, want) in [
            ("hots=h", "unknown key \"hots\""),
            ("host", "lacks \"=\" after \"host\""),
            ("user='abc", "inside a quoted value of \"user\""),
            ("port=70000", "port=70000 is not valid"),
            ("port=0", "port=0 is not valid"),
            ("sslmode=yes", "expected disable, allow"),
            ("connect_timeout=soon", "expected seconds"),
            ("host=a,b", "several hosts"),
            ("postgresql://a,b/", "several hosts"),
            ("postgresql://h?x=1", "unknown key \"x\""),
            ("postgresql://h?x", "lacks \"=\""),
            ("postgresql://[::1", "\"[\" without"),
            ("postgresql://[::1]x", "only \":port\""),
            ("postgresql://h%4", "two hexadecimal digits"),
            ("postgresql://h%FF", "not UTF-8"),
            ("postgresql://u%00@h", "zero byte"),
        ] {
            let error = text.parse::<ConnStr>().expect_err(text).to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn password_stays_hidden() {
        let parsed: ConnStr = "password=topsecret user=u".parse().unwrap();
        assert!(!format!("{parsed} {parsed:?}").contains("topsecret"));
        assert!(parsed.with_secret().contains("topsecret"));
    }

    #[test]
    fn socket_addresses() {
        let at = |text: &str| text.parse::<ConnStr>().unwrap().address();
        assert_eq!(at("host=/tmp/x port=77"), Address::Unix("/tmp/x/.s.PGSQL.77".into()));
        assert_eq!(at("host=::1 port=77"), Address::tcp("::1", 77));
    }
}
