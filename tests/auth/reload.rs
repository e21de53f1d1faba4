//! Keys that change while the server runs.

use super::{HTTP, Keys};
use crate::api::http;
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::disk::{read_file, write_file_durably};

#[tokio::test]
async fn keys_come_and_go() {
    let place = Place::new().await;
    let (old, new) = (Keys::generate(&place, "old").await, Keys::generate(&place, "new").await);
    let directory = place.path("public");
    let disk = &*place.env.disk;
    disk.create_dir_all(&directory).unwrap();
    let put = |name: &str, bytes: &[u8]| write_file_durably(disk, &directory.join(name), bytes).unwrap();
    let public = |keys: &Keys| read_file(disk, keys.public().as_ref()).unwrap();
    put("old.pem", &public(&old));
    let path = format!("auth_validation_public_key_path = '{}'", directory.display());
    let server = PalServer::start(&place, "node", &[HTTP, &path]).await;
    let (by_old, by_new) = (old.token(&place, &[]).await, new.token(&place, &[]).await);
    let ask = async |token: &str, method: &str, path: &str| {
        http(&place, &server.http_address(), method, path, &format!("authorization: Bearer {token}\r\n"), b"").await
    };
    let statuses = async || [ask(&by_old, "GET", "/v1/tenant").await.0, ask(&by_new, "GET", "/v1/tenant").await.0];
    let reload = async |token: &str| ask(token, "POST", "/v1/reload_auth_validation_keys").await;
    assert_eq!(statuses().await, [200, 403]);

    put("new.pem", &public(&new));
    assert_eq!(statuses().await, [200, 403], "not before it is asked for");
    assert_eq!(reload(&by_old).await, (200, "null".to_string()));
    assert_eq!(statuses().await, [200, 200]);

    put("new.pem", b"garbage");
    let (status, text) = reload(&by_new).await;
    assert!(status == 500 && text.contains("new.pem") && text.contains("stay as they were"), "{status} {text}");
    assert_eq!(statuses().await, [200, 200], "the keys stay");

    ["old.pem", "new.pem"].iter().for_each(|name| disk.unlink(&directory.join(name)).unwrap());
    assert_eq!(reload(&by_old).await.0, 500, "no key at all");
    assert_eq!(statuses().await, [200, 200], "the keys stay");

    put("new.pem", &public(&new));
    assert_eq!(reload(&by_old).await.0, 200);
    assert_eq!(statuses().await, [403, 200], "the key that was removed opens nothing");
    assert_eq!(reload(&by_old).await.0, 403);
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn without_authentication_there_is_nothing_to_load() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let (status, text) = http(&place, &server.http_address(), "POST", "/v1/reload_auth_validation_keys", "", b"").await;
    assert!(status == 400 && text.contains("authentication is off"), "{status} {text}");
    assert_eq!(server.stop(&place).await, Some(0));
}
