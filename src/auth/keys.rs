//! Keys: Ed25519 in PEM files.
//!
//! In: a file, or a directory whose files end in `.pem`. Out: the public keys in them. Invariant: either every file is understood
//! and there is a key, or the whole is an error that names the file: a key that is silently left out would lock people out.
//! Source: RFC 8410 sections 4, 7 and 10.3 (both DER forms are of fixed length), RFC 7468 (PEM).

use crate::io_abstraction::Disk;
use crate::io_abstraction::disk::read_file;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

/// Files of a directory that hold keys end so.
const SUFFIX: &str = ".pem";
/// What stands before the 32 bytes of a public key: SubjectPublicKeyInfo of algorithm 1.3.101.112.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 32 bytes of a private key: PrivateKeyInfo version 1 of the same algorithm.
const PRIVATE_PREFIX: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// Characters of a line of PEM.
const LINE: usize = 64;

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("auth_validation_public_key_path is not set: it names the public key, or a directory of them, that `pal keygen` writes")]
    NoPath,
    #[error("read {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path} is not PEM: {reason}")]
    Pem { path: PathBuf, reason: String },
    #[error("{path} holds no {what} in PEM; `pal keygen` makes a pair")]
    Empty { path: PathBuf, what: &'static str },
    #[error("the directory {path} holds no file that ends in {SUFFIX}; put public keys there")]
    NoFiles { path: PathBuf },
    #[error("{path} holds a private key: a server needs the public one only, and nobody else should have the private one")]
    Private { path: PathBuf },
    #[error("{path} holds a {what} that is not Ed25519; `pal keygen` makes a pair")]
    NotEd25519 { path: PathBuf, what: &'static str },
}

/// Public keys; a token is good if any of them verifies it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<[u8; 32]>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet of {}", self.keys.len())
    }
}

impl KeySet {
    /// Reads a file, or all `*.pem` of a directory.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<KeySet, KeyError> {
        let Ok(entries) = disk.list(path) else {
            return Ok(KeySet { keys: read_public(disk, path)? });
        };
        let files = entries.iter().filter(|entry| !entry.is_dir && entry.name.ends_with(SUFFIX));
        let mut keys = Vec::new();
        for file in files {
            keys.extend(read_public(disk, &path.join(&file.name))?);
        }
        if keys.is_empty() { Err(KeyError::NoFiles { path: path.to_path_buf() }) } else { Ok(KeySet { keys }) }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether one of the keys has signed this.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.keys.iter().any(|key| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok())
    }
}

/// All public keys of a file, at least one.
fn read_public(disk: &dyn Disk, path: &Path) -> Result<Vec<[u8; 32]>, KeyError> {
    let owned = || path.to_path_buf();
    let pem = read_file(disk, path).map_err(|error| KeyError::Read { path: owned(), error })?;
    if PrivatePkcs8KeyDer::pem_slice_iter(&pem).any(|key| key.is_ok()) {
        return Err(KeyError::Private { path: owned() });
    }
    let mut keys = Vec::new();
    for key in SubjectPublicKeyInfoDer::pem_slice_iter(&pem) {
        let key = key.map_err(|e| KeyError::Pem { path: owned(), reason: e.to_string() })?;
        let bytes = key.strip_prefix(&PUBLIC_PREFIX).and_then(|rest| rest.try_into().ok());
        keys.push(bytes.ok_or_else(|| KeyError::NotEd25519 { path: owned(), what: "public key" })?);
    }
    if keys.is_empty() { Err(KeyError::Empty { path: owned(), what: "public key" }) } else { Ok(keys) }
}

/// A private key. Never printed but by [`private_pem`], which makes it.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// The key of these random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> SigningKey {
        SigningKey(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// Reads the PEM file of a private key.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<SigningKey, KeyError> {
        let owned = || path.to_path_buf();
        let pem = read_file(disk, path).map_err(|error| KeyError::Read { path: owned(), error })?;
        let key = match PrivatePkcs8KeyDer::pem_slice_iter(&pem).next() {
            None => return Err(KeyError::Empty { path: owned(), what: "private key" }),
            Some(key) => key.map_err(|e| KeyError::Pem { path: owned(), reason: e.to_string() })?,
        };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
        pair.map(SigningKey).map_err(|_| KeyError::NotEd25519 { path: owned(), what: "private key" })
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    /// The public key as a server wants it.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &[&PUBLIC_PREFIX, self.0.public_key().as_ref()].concat())
    }
}

/// The private key of these random bytes as a file.
pub fn private_pem(seed: &[u8; 32]) -> String {
    pem("PRIVATE KEY", &[&PRIVATE_PREFIX[..], seed].concat())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(LINE).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_abstraction::{disk::write_file_durably, real};

    /// Source: RFC 8410 section 10.3 (private) and 10.1 (public): one pair.
    const PRIVATE: &str =
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    /// Of the curve P-256.
    const OTHER_KIND: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE7QuSy/sD4kkPxY5zJxRbF3bV7uLu\nP/4y05J/P7mAbgPHnmNNUaLpeE+gwJ7x9lGGnZCL5LPjEVIvhDXr3rSk1A==\n-----END PUBLIC KEY-----\n";

    #[test]
    fn files_are_those_of_the_standard() {
        let directory = tempfile::tempdir().unwrap();
        let disk = real::file_system();
        let path = directory.path().join("key.pem");
        write_file_durably(&*disk, &path, PRIVATE.as_bytes()).unwrap();
        let key = SigningKey::load(&*disk, &path).unwrap();
        assert_eq!(key.public_pem(), PUBLIC);
        for seed in [[0; 32], [7; 32], [255; 32]] {
            write_file_durably(&*disk, &path, private_pem(&seed).as_bytes()).unwrap();
            let read = SigningKey::load(&*disk, &path).unwrap();
            assert_eq!(read.public_pem(), SigningKey::from_seed(&seed).public_pem());
            write_file_durably(&*disk, &path, read.public_pem().as_bytes()).unwrap();
            let keys = KeySet::load(&*disk, &path).unwrap();
            assert!(keys.verifies(b"message", &read.sign(b"message")) && !keys.verifies(b"Message", &read.sign(b"message")));
        }
    }

    #[test]
    fn a_directory_is_read_whole_or_not_at_all() {
        let disk = real::file_system();
        let second = SigningKey::from_seed(&[1; 32]).public_pem();
        let third = SigningKey::from_seed(&[2; 32]).public_pem();
        let check = |files: &[(&str, &str)], want: Result<usize, &str>| {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in files {
                write_file_durably(&*disk, &directory.path().join(name), text.as_bytes()).unwrap();
            }
            disk.create_dir_all(&directory.path().join("sub.pem")).unwrap();
            let loaded = KeySet::load(&*disk, directory.path()).map(|keys| keys.len()).map_err(|e| e.to_string());
            match want {
                Ok(count) => assert_eq!(loaded, Ok(count), "{files:?}"),
                Err(part) => assert!(loaded.as_ref().is_err_and(|e| e.contains(part) && !e.contains("MC4C")), "{files:?}: {loaded:?}"),
            }
        };
        check(&[("a.pem", PUBLIC)], Ok(1));
        check(&[("a.pem", PUBLIC), ("b.pem", &second), ("readme.txt", "text")], Ok(2));
        check(&[("a.pem", &format!("{PUBLIC}\n{second}{third}"))], Ok(3));
        check(&[], Err("holds no file that ends in .pem"));
        check(&[("key.pub", PUBLIC)], Err("holds no file that ends in .pem"));
        check(&[("a.pem", PUBLIC), ("b.pem", "garbage")], Err("b.pem holds no public key"));
        check(&[("a.pem", PUBLIC), ("b.pem", "")], Err("b.pem holds no public key"));
        check(&[("a.pem", "-----BEGIN PUBLIC KEY-----\n%%%\n-----END PUBLIC KEY-----\n")], Err("a.pem is not PEM"));
        check(&[("a.pem", OTHER_KIND)], Err("not Ed25519"));
        check(&[("a.pem", PUBLIC), ("auth_private_key.pem", PRIVATE)], Err("auth_private_key.pem holds a private key"));
        let absent = KeySet::load(&*disk, Path::new("/nonexistent/key.pem")).unwrap_err().to_string();
        assert!(absent.contains("/nonexistent/key.pem"), "{absent}");
    }

    #[test]
    fn nothing_prints_a_private_key() {
        let seed = [7; 32];
        assert_eq!(format!("{:?}", SigningKey::from_seed(&seed)), "SigningKey");
        let directory = tempfile::tempdir().unwrap();
        let disk = real::file_system();
        let path = directory.path().join("key.pem");
        for (text, part) in
            [(PUBLIC, "holds no private key"), ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not Ed25519")]
        {
            write_file_durably(&*disk, &path, text.as_bytes()).unwrap();
            let error = SigningKey::load(&*disk, &path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
