//! Tokens and TLS as clients of the real executable meet them: who gets in, who does not, and what each is told.

mod pages;
mod reload;
mod requests;
mod tls;

use crate::pal::{Said, pal};
use crate::support::Place;
use palimpsest::auth::{Claims, Permission, SigningKey, token};
use palimpsest::io_abstraction::disk::read_file;
use std::path::PathBuf;

const T: &str = "11111111111111111111111111111111";
const OTHER: &str = "22222222222222222222222222222222";

/// A pair that `pal keygen` has made.
pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    pub async fn generate(place: &Place, name: &str) -> Keys {
        let directory = place.path(name);
        pal(place, &["keygen", "-o", &directory.display().to_string()], &[]).await.ok();
        Keys { directory }
    }

    fn private(&self) -> String {
        self.directory.join("auth_private_key.pem").display().to_string()
    }

    fn public(&self) -> String {
        self.directory.join("auth_public_key.pem").display().to_string()
    }

    /// A token of `pal token` with these arguments.
    async fn token(&self, place: &Place, args: &[&str]) -> String {
        let private = self.private();
        pal(place, &[&["token", "--key", &private], args].concat(), &[]).await.ok().to_string()
    }

    /// A token for everything that is not valid from this second on.
    fn until(&self, place: &Place, seconds: i64) -> String {
        let key = SigningKey::load(&*place.env.disk, self.private().as_ref()).unwrap();
        token::encode(&Claims { permission: Permission::Everything, expires: Some(seconds) }, &key)
    }

    /// The setting that makes a server take its tokens.
    pub fn setting(&self) -> String {
        format!("auth_validation_public_key_path = '{}'", self.public())
    }
}

pub const HTTP: &str = "http_auth_type = 'NeonJWT'";
const PAGES: &str = "pg_auth_type = 'NeonJWT'";

/// `pal serve` with settings that it must refuse.
async fn refused_start(place: &Place, settings: &[&str]) -> Said {
    let directory = place.path("refused").display().to_string();
    let mut args = vec!["serve", "-D", &directory];
    settings.iter().for_each(|setting| args.extend(["-c", setting]));
    let said = pal(place, &args, &[]).await;
    assert_eq!(said.code, Some(1), "{settings:?}: {said:?}");
    said
}

/// What the server `node` has logged.
fn log(place: &Place) -> String {
    String::from_utf8(read_file(&*place.env.disk, &place.path("node.log")).unwrap()).unwrap()
}

#[tokio::test]
async fn keys_and_tokens_are_made() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new().await;
    let keys = Keys::generate(&place, "keys").await;
    let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&keys.private()), mode(&keys.public()) & 0o400), (0o600, 0o400));
    let pem = |path: &str| String::from_utf8(read_file(&*place.env.disk, path.as_ref()).unwrap()).unwrap();
    let (private, public) = (pem(&keys.private()), pem(&keys.public()));
    let again = pal(&place, &["keygen", "-o", &keys.directory.display().to_string(), "--json"], &[]).await;
    assert!(again.code == Some(4) && again.err.contains("exists already"), "{again:?}");
    assert_eq!((pem(&keys.private()), pem(&keys.public())), (private.clone(), public.clone()), "nothing was replaced");
    let other = Keys::generate(&place, "other").await;
    assert_ne!((pem(&other.private()), pem(&other.public())), (private.clone(), public.clone()));

    let said = pal(&place, &["token", "--key", &keys.private(), "--tenant", T, "--ttl", "1h", "--json"], &[]).await;
    let json = said.json();
    let now = place.env.clock.wall().unix_seconds();
    assert_eq!((&json["scope"], &json["tenant_id"]), (&"tenant".into(), &T.into()));
    assert!((now + 3000..now + 4000).contains(&json["exp"].as_i64().unwrap()), "{json}");
    let secret = private.lines().nth(1).unwrap();
    for (args, part) in [
        (&["--key", &keys.public()][..], "holds no private key"),
        (&["--key", "/nonexistent/key"], "/nonexistent/key"),
        (&["--key", &keys.private(), "--scope", "pageserverapi", "--tenant", T], "leave out --tenant"),
    ] {
        let said = pal(&place, &[&["token"], args].concat(), &[]).await;
        assert!(said.code == Some(7) && said.err.contains(part) && !said.err.contains(secret), "{args:?}: {said:?}");
    }
}

#[tokio::test]
async fn a_server_without_a_lock_does_not_listen_to_others() {
    let place = Place::new().await;
    let keys = Keys::generate(&place, "keys").await;
    for (settings, parts) in [
        (
            &["listen_http_addr = '0.0.0.0:0'"][..],
            &["listen_http_addr = 0.0.0.0:0", "http_auth_type", "ssl_cert_file", "listen_insecurely"][..],
        ),
        (&["listen_pg_addr = '0.0.0.0:0'"], &["listen_pg_addr = 0.0.0.0:0", "pg_auth_type", "ssl_cert_file"]),
        (&["listen_http_addr = '0.0.0.0:0'", HTTP, &keys.setting()], &["needs TLS"]),
        (&[HTTP], &["auth_validation_public_key_path", "pal keygen"]),
        (&[HTTP, "auth_validation_public_key_path = '/nonexistent'"], &["/nonexistent"]),
        (
            &[HTTP, &format!("auth_validation_public_key_path = '{}'", keys.directory.display())],
            &["auth_private_key.pem holds a private key"],
        ),
        (&["ssl_cert_file = '/nonexistent.crt'", "ssl_key_file = '/nonexistent.key'"], &["/nonexistent.crt"]),
    ] {
        let said = refused_start(&place, settings).await;
        assert!(parts.iter().all(|part| said.err.contains(part)), "{settings:?}: {said:?}");
    }
    let insecure = ["listen_http_addr = '0.0.0.0:0'", "listen_insecurely = true"];
    let server = crate::pal::PalServer::start(&place, "node", &insecure).await;
    assert!(server.http.starts_with("0.0.0.0:"), "{}", server.http);
    assert!(log(&place).contains("listen_insecurely"), "{}", log(&place));
    assert_eq!(server.stop(&place).await, Some(0));
}
