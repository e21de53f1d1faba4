//! A unix socket in front of a server's, which damages one byte of the WAL stream when told to.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Bytes that come at once from the server before one of them is damaged: certainly WAL.
const LARGE: usize = 4000;

pub struct Proxy {
    damage: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens in `directory` under the name that clients look for there.
    pub fn start(directory: &Path, server: &Path, port: &str) -> Proxy {
        std::fs::create_dir(directory).unwrap();
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let name = format!(".s.PGSQL.{port}");
        let listener = UnixListener::bind(directory.join(&name)).unwrap();
        let damage = Arc::new(AtomicBool::new(false));
        let (armed, target): (_, PathBuf) = (damage.clone(), server.join(&name));
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = UnixStream::connect(&target) else { continue };
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(from_client, to_server, &AtomicBool::new(false)));
                let armed = armed.clone();
                thread::spawn(move || pass(server, client, &armed));
            }
        });
        Proxy { damage }
    }

    /// Damages one byte of what comes next.
    pub fn damage_once(&self) {
        self.damage.store(true, Ordering::SeqCst);
    }

    pub fn is_done(&self) -> bool {
        !self.damage.load(Ordering::SeqCst)
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, damage: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if read >= LARGE && damage.swap(false, Ordering::SeqCst) {
            buffer[read / 2] ^= 0x20;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other half may be gone already.
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
