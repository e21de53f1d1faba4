//! The page service with tokens.

use super::{HTTP, Keys, OTHER, PAGES, T, log};
use crate::page_service::client::{Client, message, startup};
use crate::pal::{PalServer, pal};
use crate::support::Place;

/// A client that has shown this password.
async fn log_in(place: &Place, server: &PalServer, password: &str) -> Client {
    let (mut client, first) = Client::connect_with(place, server, &startup(0, &[("user", "pal")])).await;
    assert_eq!(first, (b'R', vec![0, 0, 0, 3]), "a cleartext password is asked for");
    client.write(&message(b'p', format!("{password}\0").as_bytes())).await;
    client
}

#[tokio::test]
async fn a_token_is_the_password() {
    let place = Place::new().await;
    let (keys, foreign) = (Keys::generate(&place, "keys").await, Keys::generate(&place, "foreign").await);
    let server = PalServer::start(&place, "node", &[HTTP, PAGES, &keys.setting()]).await;
    let (all, own) = (keys.token(&place, &[]).await, keys.token(&place, &["--tenant", T]).await);
    for tenant in [T, OTHER] {
        server.pal(&place, &["tenant", "create", "--id", tenant, "--token", &all]).await.ok();
    }
    let timeline = "33333333333333333333333333333333";

    let wrong = foreign.token(&place, &[]).await;
    for (password, part) in [
        ("", "not a valid token"),
        ("secret", "not a valid token"),
        (wrong.as_str(), "no key of this server"),
        (&keys.until(&place, 1), "expired"),
        (&format!("{own}\0{all}"), "not a valid token"),
    ] {
        let mut client = log_in(&place, &server, password).await;
        client.refusal().await.check("28P01", part);
        assert!(client.next().await.is_none(), "the server hangs up");
    }
    let (mut impatient, _) = Client::connect_with(&place, &server, &startup(0, &[])).await;
    impatient.query(&format!("show {T}")).await;
    impatient.refusal().await.check("08P01", "expected a password");
    assert!(impatient.next().await.is_none(), "the server hangs up");

    let mut client = log_in(&place, &server, &own).await;
    client.ready().await;
    for command in ["show", "pagestream", "pagestream_v2", "pagestream_v3", "basebackup", "fullbackup", "get_last_record_rlsn"] {
        let argument = if command == "show" { "" } else { timeline };
        for tenant in [OTHER, "44444444444444444444444444444444"] {
            let refusal = client.refused(&format!("{command} {tenant} {argument}")).await;
            refusal.check("42501", "Tenant id mismatch. Permission denied");
        }
        if command != "show" {
            client.refused(&format!("{command} {T} {argument}")).await.check("XX000", "was not found");
        }
    }
    // By extended query too.
    let text = |parts: &[&str]| parts.iter().flat_map(|p| p.bytes().chain([0])).collect::<Vec<u8>>();
    client.write(&message(b'P', &[text(&["", &format!("show {OTHER}")]), vec![0, 0]].concat())).await;
    client.write(&message(b'B', &[text(&["", ""]), vec![0; 6]].concat())).await;
    client.write(&message(b'E', &[text(&[""]), vec![0; 4]].concat())).await;
    client.write(&message(b'S', b"")).await;
    client.expect(b'1').await;
    client.expect(b'2').await;
    client.refusal().await.check("42501", "Permission denied");
    client.expect(b'Z').await;
    client.query(&format!("show {T}")).await;
    assert_eq!(client.ready().await, "TDC", "the connection goes on");
    client.query("set datestyle = 'ISO'").await;
    assert_eq!(client.ready().await, "C");

    let mut client = log_in(&place, &server, &all).await;
    client.ready().await;
    for tenant in [T, OTHER] {
        client.query(&format!("show {tenant}")).await;
        assert_eq!(client.ready().await, "TDC");
    }
    exports(&place, &server, &own).await;
    assert!(![&all, &own, &wrong].iter().any(|token| log(&place).contains(token.rsplit('.').next().unwrap())), "a token is in the log");
    assert_eq!(server.stop(&place).await, Some(0));
}

/// `pal export` shows the token too; only refusals are looked at here.
async fn exports(place: &Place, server: &PalServer, own: &str) {
    let target = place.path("export").display().to_string();
    let timeline = "33333333333333333333333333333333";
    for (tenant, token, code, part) in [
        (T, "", 5, "asks for a token"),
        (T, "garbage", 5, "not a valid token"),
        (OTHER, own, 5, "Permission denied"),
        (T, own, 1, "was not found"),
    ] {
        let args = ["export", "--tenant", tenant, "--timeline", timeline, "-o", &target];
        let said = pal(place, &args, &[("PAL_PAGE_SERVICE", &server.pages), ("PAL_TOKEN", token)]).await;
        assert!(said.code == Some(code) && said.err.contains(part), "{tenant} {token}: {said:?}");
    }
}
