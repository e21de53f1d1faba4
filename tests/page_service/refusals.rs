//! What a client hears when it asks for what there is not: the documented SQLSTATE, and the connection goes on.

use super::client::{Client, Refusal, message};
use super::timeline;
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::types::Lsn;

/// A V3 request for block 0 of pg_database.
fn get_page(request_lsn: Lsn, not_modified_since: Lsn) -> Vec<u8> {
    page_of(1262, request_lsn, not_modified_since)
}

fn page_of(rel: u32, request_lsn: Lsn, not_modified_since: Lsn) -> Vec<u8> {
    let mut body = vec![2];
    for number in [9, request_lsn.0, not_modified_since.0] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    [1664u32, 0, rel].iter().for_each(|n| body.extend_from_slice(&n.to_be_bytes()));
    body.extend_from_slice(&[0, 0, 0, 0, 0]);
    message(b'd', &body)
}

/// An answer of a V3 pagestream that is an error in words.
fn in_band(answer: &[u8]) -> String {
    assert_eq!((answer[0], answer.last()), (103, Some(&0)), "{answer:?}");
    String::from_utf8_lossy(&answer[25..answer.len() - 1]).into_owned()
}

#[tokio::test]
async fn commands_are_refused_with_their_code() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["wait_lsn_timeout = '300ms'"]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let unknown = "0123456789abcdef0123456789abcdef";
    let mut client = Client::connect(&place, &server).await;
    let ids = format!("{tenant} {timeline}");
    for command in ["pagestream", "pagestream_v2", "pagestream_v3", "basebackup", "fullbackup", "get_last_record_rlsn"] {
        for (arguments, sqlstate, part) in [
            (String::new(), "42601", "needs a tenant id"),
            (tenant.clone(), "42601", "needs a timeline id"),
            (format!("{} {timeline}", &tenant[1..]), "22023", "is not a tenant id"),
            (format!("{tenant} {}z", &timeline[1..]), "22023", "is not a timeline id"),
            (format!("{tenant} {unknown}"), "XX000", "was not found"),
            (format!("{unknown} {timeline}"), "XX000", "was not found"),
            (format!("{ids} --color"), "42601", "does not take"),
        ] {
            client.refused(&format!("{command} {arguments}")).await.check(sqlstate, part);
        }
    }
    for (command, sqlstate, part) in [
        (format!("basebackup {ids} 0/10 0/20"), "42601", "does not take \"0/20\""),
        (format!("basebackup {ids} --gzip --gzip"), "42601", "does not take \"--gzip\""),
        (format!("basebackup {ids} here"), "22023", "not an LSN"),
        (format!("basebackup {ids} --gzip latest"), "42601", "does not take \"latest\""),
        (format!("fullbackup {ids} 0/10 0/10 0/10"), "42601", "does not take"),
        (format!("fullbackup {ids} --as clone"), "42601", "clone"),
        ("callmemaybe".to_string(), "42601", "unknown command"),
        (format!("show {unknown}"), "XX000", "was not found"),
        ("\u{1F418}".to_string(), "42601", "unknown command"),
    ] {
        client.refused(&command).await.check(sqlstate, part);
    }
    // What cannot be done at the LSN that is named; nothing is sent before the refusal.
    for (command, form) in [("basebackup", ""), ("basebackup", " --gzip"), ("fullbackup", ""), ("fullbackup", " --as first-node")] {
        for (lsn, part) in [("0/10", "was garbage collected. requested at 0/10 gc cutoff"), ("FF/0", "waiting for WAL up to FF/0")] {
            let (refusal, begun): (Refusal, bool) = client.copy_out(&format!("{command} {ids} {lsn}{form}")).await.unwrap_err();
            refusal.check("XX000", part);
            assert!(!begun, "{command} {lsn}{form}");
            assert_eq!(refusal.message.contains("invalid basebackup lsn"), command == "basebackup", "{refusal:?}");
        }
    }
    let (refusal, _) = client.copy_out(&format!("fullbackup {ids} FF/0")).await.unwrap_err();
    refusal.check("XX000", "WalReceiver status: Not active");
    client.query(&format!("get_last_record_rlsn {ids}")).await;
    assert_eq!(client.ready().await, "TDC", "the connection goes on");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn a_pagestream_answers_errors_in_band() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["wait_lsn_timeout = '300ms'"]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let mut client = Client::connect(&place, &server).await;
    client.query(&format!("pagestream_v3 {tenant} {timeline}")).await;
    client.expect(b'W').await;
    let good = get_page(Lsn::MAX, Lsn(0));
    for (request, part) in [
        (get_page(Lsn(8), Lsn(16)), "request LSN 0/8 is below not_modified_since 0/10"),
        (get_page(Lsn(0), Lsn(0)), "invalid LSN(0) in request"),
        (get_page(Lsn(8), Lsn(8)), "was garbage collected. requested at 0/8 gc cutoff"),
        (get_page(Lsn(0xFF << 32), Lsn(0xFF << 32)), "WalReceiver status: Not active"),
        (page_of(0xFFFF_FF00, Lsn::MAX, Lsn(0)), "does not exist"),
    ] {
        // The stream goes on: the answers around it are as they would be without it.
        client.write(&[good.clone(), request, good.clone()].concat()).await;
        assert_eq!(client.expect(b'd').await[0], 102);
        let said = in_band(&client.expect(b'd').await);
        assert!(said.contains(part), "\"{part}\" is not in \"{said}\"");
        assert_eq!(client.expect(b'd').await[0], 102);
    }
    client.write(&message(b'c', b"")).await;
    assert_eq!(client.ready().await, "cC");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn who_waits_for_wal_does_not_hold_up_the_answers_before() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["wait_lsn_timeout = '10m'"]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let mut client = Client::connect(&place, &server).await;
    client.query(&format!("pagestream_v3 {tenant} {timeline}")).await;
    client.expect(b'W').await;
    let late = Lsn(0xFF << 32);
    client.write(&[get_page(Lsn::MAX, Lsn(0)), get_page(late, late)].concat()).await;
    assert_eq!(client.expect(b'd').await[0], 102);
    // A stop ends the wait.
    assert_eq!(server.stop(&place).await, Some(0));
    client.refusal().await.check("57P01", "shutting down");
}
