//! Settings of a node: TOML file, then `-c key=value` overrides, then defaults.

mod access;
mod control_plane;
pub mod duration;
pub mod tenant;

pub use access::{AuthType, PageTls};
pub use control_plane::{Secret, UpcallUrl};
pub use tenant::{EvictionPolicy, TenantConfig, TenantOverrides};

use crate::io_abstraction::Address;
use crate::pg::version::PgVersion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the WAL redo routines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RedoMode {
    /// In a child process behind a pipe: a fault in it costs one child, not the node.
    Child,
    /// In the node itself.
    InProcess,
}

/// Where layers and indexes are kept. The kind follows from the keys, as in the pageserver's seed configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteStorage {
    /// A directory of this machine, every write synced.
    pub local_path: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Postgres {
    /// Directory with `initdb`, `postgres` and `pg_ctl` per major version.
    pub versions: BTreeMap<String, PathBuf>,
    /// User that runs servers when the node runs as root.
    pub run_as: Option<String>,
}

/// All settings of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(skip)]
    pub data_dir: PathBuf,
    /// Number of this node, which no other node of the same control plane has.
    pub id: u64,
    /// Management API: `host:port`.
    pub listen_http_addr: String,
    /// Page service: `host:port`.
    pub listen_pg_addr: String,
    /// Who may use the management API.
    pub http_auth_type: AuthType,
    /// Who may use the page service.
    pub pg_auth_type: AuthType,
    /// Public keys that verify tokens: a PEM file, or a directory of `*.pem`.
    pub auth_validation_public_key_path: Option<PathBuf>,
    /// Certificate chain in PEM: both listeners speak TLS.
    pub ssl_cert_file: Option<PathBuf>,
    /// The certificate's private key in PEM.
    pub ssl_key_file: Option<PathBuf>,
    /// Clients of the page service without TLS, when there is a certificate.
    pub pg_tls: PageTls,
    /// Listens on other than loopback addresses without authentication and TLS.
    pub listen_insecurely: bool,
    pub remote_storage: Option<RemoteStorage>,
    /// URL of the control plane's upcalls; none: remote storage itself says who has a tenant.
    pub control_plane_api: Option<String>,
    /// Bearer token for it.
    pub control_plane_api_token: Option<Secret>,
    /// Certificates in PEM that have signed the control plane's, or are it.
    pub control_plane_api_ca: Option<PathBuf>,
    /// Starts without asking the control plane, in the generations that are known from it.
    pub control_plane_emergency_mode: bool,
    pub postgres: Postgres,
    pub redo: RedoMode,
    /// For tenants that have no value of their own.
    #[serde(flatten)]
    pub tenant: TenantConfig,
    /// Memory in bytes at which the open layer is frozen, whatever its distance.
    pub open_layer_bytes_max: u64,
    /// Cache of unpacked layer blocks in bytes.
    pub block_cache_bytes: u64,
    /// How long a read waits for WAL that has not arrived.
    #[serde(with = "duration")]
    pub wait_lsn_timeout: Duration,
    /// How long one answer of a redo child may take.
    #[serde(with = "duration")]
    pub wal_redo_timeout: Duration,
    /// Silence after which the connection to a primary is given up.
    #[serde(with = "duration")]
    pub walreceiver_idle_timeout: Duration,
    /// Space in bytes that the WAL log leaves free: below it nothing is acknowledged any more.
    pub disk_reserve_bytes: u64,
    /// WAL kept in the log behind the remotely consistent LSN, in bytes.
    pub wal_log_keep_bytes: u64,
    /// WAL in bytes that a timeline's log may hold: remote storage that is away for longer stops acknowledging.
    pub wal_log_bytes_max: u64,
    /// How long a client of the management API may take for the head of a request, for its body, and to take some of its answer.
    #[serde(with = "duration")]
    pub http_client_timeout: Duration,
    /// Idle time after which a page service connection is closed.
    #[serde(with = "duration")]
    pub page_service_idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: PathBuf::from("./.palimpsest"),
            id: 1,
            listen_http_addr: "127.0.0.1:9898".to_string(),
            listen_pg_addr: "127.0.0.1:64000".to_string(),
            http_auth_type: AuthType::Trust,
            pg_auth_type: AuthType::Trust,
            auth_validation_public_key_path: None,
            ssl_cert_file: None,
            ssl_key_file: None,
            pg_tls: PageTls::Require,
            listen_insecurely: false,
            remote_storage: None,
            control_plane_api: None,
            control_plane_api_token: None,
            control_plane_api_ca: None,
            control_plane_emergency_mode: false,
            postgres: Postgres::default(),
            redo: RedoMode::Child,
            tenant: TenantConfig::default(),
            open_layer_bytes_max: 64 << 20,
            block_cache_bytes: 64 << 20,
            wait_lsn_timeout: Duration::from_secs(60),
            wal_redo_timeout: Duration::from_secs(60),
            walreceiver_idle_timeout: Duration::from_secs(60),
            disk_reserve_bytes: 256 << 20,
            wal_log_keep_bytes: 64 << 20,
            wal_log_bytes_max: 64 << 30,
            http_client_timeout: Duration::from_secs(30),
            page_service_idle_timeout: Duration::from_secs(600),
        }
    }
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read the configuration {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("configuration {origin}: unknown key \"{key}\"; did you mean \"{nearest}\"?")]
    UnknownKey { origin: String, key: String, nearest: String },
    #[error("configuration {origin}: {error}")]
    Parse { origin: String, error: String },
    #[error("configuration: {key} = {value}: at least {least} {unit}")]
    Least { key: &'static str, value: u64, least: u64, unit: &'static str },
    #[error("configuration: {key} = {value}: {reason}")]
    Invalid { key: &'static str, value: String, reason: &'static str },
    #[error("configuration: {key} needs {lacks}")]
    Lacking { key: &'static str, lacks: &'static str },
    #[error(
        "configuration: {key} = {address}: other machines reach this address, and the listener needs {lacks}; set that, listen on 127.0.0.1, ::1 or localhost, or take whoever comes with listen_insecurely = true"
    )]
    Exposed { key: &'static str, address: Address, lacks: String },
}

impl Config {
    pub fn for_data_dir(path: &Path) -> Config {
        Config { data_dir: path.to_path_buf(), ..Config::default() }
    }

    /// Merges the text of a file and `key=value` overrides.
    pub fn load(data_dir: &Path, file: Option<(&str, &str)>, overrides: &[String]) -> Result<Config, ConfigError> {
        let mut table = toml::Table::new();
        if let Some((origin, text)) = file {
            table = parse_table(origin, text)?;
        }
        for text in overrides {
            merge(&mut table, parse_table(&format!("-c '{text}'"), text)?);
        }
        check_keys("settings", &table)?;
        let mut config: Config = table
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Parse { origin: "settings".into(), error: e.message().to_string() })?;
        config.data_dir = data_dir.to_path_buf();
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, value: u64, reason| Err(ConfigError::Invalid { key, value: value.to_string(), reason });
        self.tenant.validate()?;
        if self.open_layer_bytes_max < 64 << 10 {
            return invalid("open_layer_bytes_max", self.open_layer_bytes_max, "at least 65536 bytes");
        }
        let least = self.wal_log_keep_bytes.saturating_add(self.tenant.checkpoint_distance.saturating_mul(2)).saturating_add(64 << 20);
        if self.wal_log_bytes_max < least {
            let reason =
                "at least wal_log_keep_bytes + 2 * checkpoint_distance + 64 MiB, or the log would be full before it may be trimmed";
            return invalid("wal_log_bytes_max", self.wal_log_bytes_max, reason);
        }
        if self.http_client_timeout < Duration::from_millis(10) {
            return Err(ConfigError::Invalid {
                key: "http_client_timeout",
                value: format!("{:?}", self.http_client_timeout),
                reason: "at least 10 ms",
            });
        }
        self.check_access()?;
        self.check_control_plane()?;
        self.postgres_versions().map(|_| ())
    }

    fn listen(&self, text: &str, key: &'static str) -> Result<Address, ConfigError> {
        let invalid = |reason| ConfigError::Invalid { key, value: text.to_string(), reason };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid("expected host:port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Address::tcp(host, port.parse().map_err(|_| invalid("the port is not a number from 0 to 65535"))?))
    }

    pub fn http_address(&self) -> Result<Address, ConfigError> {
        self.listen(&self.listen_http_addr, "listen_http_addr")
    }

    pub fn pages_address(&self) -> Result<Address, ConfigError> {
        self.listen(&self.listen_pg_addr, "listen_pg_addr")
    }

    pub fn remote_path(&self) -> PathBuf {
        match &self.remote_storage {
            Some(remote) => remote.local_path.clone(),
            None => self.data_dir.join("remote"),
        }
    }

    /// `[postgres.versions]` with its keys read.
    pub fn postgres_versions(&self) -> Result<BTreeMap<PgVersion, PathBuf>, ConfigError> {
        let parse = |(major, path): (&String, &PathBuf)| {
            let version = major.parse::<u32>().ok().and_then(|m| PgVersion::try_from(m).ok());
            let invalid =
                ConfigError::Invalid { key: "postgres.versions", value: major.clone(), reason: "expected a major version from 14 to 18" };
            Ok((version.ok_or(invalid)?, path.clone()))
        };
        self.postgres.versions.iter().map(parse).collect()
    }
}

fn parse_table(origin: &str, text: &str) -> Result<toml::Table, ConfigError> {
    text.parse().map_err(|e: toml::de::Error| ConfigError::Parse { origin: origin.to_string(), error: e.to_string() })
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => _ = into.insert(key, value),
        }
    }
}

/// Keys without a default.
const ABSENT: [&str; 7] = [
    "remote_storage",
    "auth_validation_public_key_path",
    "ssl_cert_file",
    "ssl_key_file",
    "control_plane_api",
    "control_plane_api_token",
    "control_plane_api_ca",
];

/// Refuses unknown keys at the top, naming the nearest known one.
fn check_keys(origin: &str, table: &toml::Table) -> Result<(), ConfigError> {
    let defaults =
        toml::Table::try_from(Config::default()).map_err(|e| ConfigError::Parse { origin: origin.into(), error: e.to_string() })?;
    let known: Vec<&str> = defaults.keys().map(String::as_str).chain(ABSENT).chain([tenant::UNSET]).collect();
    match table.keys().find(|k| !known.contains(&k.as_str())) {
        None => Ok(()),
        Some(key) => {
            let nearest = nearest(known.iter().copied(), key);
            Err(ConfigError::UnknownKey { origin: origin.to_string(), key: key.clone(), nearest })
        }
    }
}

/// The known name that a wrong one is most like.
fn nearest<'a>(known: impl Iterator<Item = &'a str>, key: &str) -> String {
    known.min_by_key(|name| edit_distance(name, key)).unwrap_or("").to_string()
}

/// Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(overrides: &[&str]) -> Result<Config, String> {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        Config::load(Path::new("/d"), None, &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn overrides_merge_and_unknown_keys_are_named() {
        let config = load(&["checkpoint_timeout = '20s'", "postgres.run_as = 'pg'", "postgres.versions.15 = '/x'"]).unwrap();
        assert_eq!(config.tenant.checkpoint_timeout, Duration::from_secs(20));
        assert_eq!(config.postgres.run_as.as_deref(), Some("pg"));
        assert_eq!(config.postgres_versions().unwrap()[&PgVersion::V15], Path::new("/x"));
        assert_eq!(config.remote_path(), Path::new("/d/remote"));
        for (text, part) in [
            ("chekpoint_distance = 1", "did you mean \"checkpoint_distance\""),
            ("checkpoint_distance = 1", "at least 8192"),
            ("checkpoint_distance = 'x'", "invalid type"),
            ("compaction_threshold = 1", "at least 2"),
            ("image_creation_threshold = 0", "at least 1"),
            ("wal_log_bytes_max = 1000000", "full before it may be trimmed"),
            ("listen_pg_addr = '0.0.0.0:1'", "other machines"),
            ("listen_http_addr = '10.0.0.1:1'", "listen_insecurely"),
            ("listen_http_addr = '127.0.0.1'", "host:port"),
            ("postgres.versions.13 = '/x'", "14 to 18"),
            ("wait_lsn_timeout = 'soon'", "settings"),
        ] {
            let error = load(&[text]).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
