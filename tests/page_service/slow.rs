//! Clients that do not read, or say nothing: they are let go after a while, and nobody else notices.

use super::client::{Client, message};
use super::timeline;
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::io_abstraction::disk::read_file;
use std::time::Duration;

fn log(place: &Place) -> String {
    String::from_utf8_lossy(&read_file(&*place.env.disk, &place.path("node.log")).unwrap()).into_owned()
}

/// Pipelined GetPage requests, answers of which there are far more bytes than buffers hold.
fn requests() -> Vec<u8> {
    let mut body = vec![2];
    for number in [1, u64::MAX, 0] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    [1664u32, 0, 1262].iter().for_each(|n| body.extend_from_slice(&n.to_be_bytes()));
    body.extend_from_slice(&[0, 0, 0, 0, 0]);
    message(b'd', &body).repeat(8000)
}

#[tokio::test]
async fn who_does_not_read_is_let_go() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["page_service_idle_timeout = '2s'"]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let mut backup = Client::connect(&place, &server).await;
    backup.query(&format!("fullbackup {tenant} {timeline}")).await;
    let mut pages = Client::connect(&place, &server).await;
    pages.query(&format!("pagestream_v3 {tenant} {timeline}")).await;
    pages.expect(b'W').await;
    pages.write(&requests()).await;
    let mut silent = Client::connect(&place, &server).await;

    let mut other = Client::connect(&place, &server).await;
    let give_up = place.env.clock.mono().after(super::client::LIMIT);
    while log(&place).matches("the client took nothing of what it was sent for too long").count() < 2 {
        other.query(&format!("show {tenant}")).await;
        assert_eq!(other.ready().await, "TDC", "other clients are served");
        assert!(place.env.clock.mono() < give_up, "{}", log(&place));
        place.env.clock.sleep(Duration::from_millis(50)).await;
    }
    // What was on its way arrives, then the connection ends, in the middle.
    for (client, end) in [(&mut backup, b'c'), (&mut pages, b'Z')] {
        let mut count = 0;
        while let Some((kind, _)) = client.next().await {
            assert!(kind != b'E' && kind != end, "it was not cut off");
            count += 1;
        }
        assert!(count > 0);
    }
    assert_eq!(silent.next().await, None, "who says nothing is let go too");
    other.query(&format!("show {tenant}")).await;
    assert_eq!(other.ready().await, "TDC");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn who_reads_slowly_is_served() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &["page_service_idle_timeout = '2s'"]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let mut client = Client::connect(&place, &server).await;
    client.query(&format!("fullbackup {tenant} {timeline}")).await;
    let begun = place.env.clock.mono();
    let (mut bytes, mut pause_at) = (0, 0);
    loop {
        match client.next().await.unwrap_or_else(|| panic!("after {bytes} bytes: {}", log(&place))) {
            (b'c', _) => break,
            (b'E', body) => panic!("{}", String::from_utf8_lossy(&body)),
            (_, body) => bytes += body.len(),
        }
        // Slow, but not so slow that megabytes of buffers on the way hide it.
        if bytes > pause_at {
            pause_at = bytes + (2 << 20);
            place.env.clock.sleep(Duration::from_millis(200)).await;
        }
    }
    assert!(place.env.clock.mono().since(begun) > Duration::from_secs(2), "longer than the limit in all, {bytes} bytes");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn a_server_that_stops_says_so() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let (tenant, timeline) = timeline(&place, &server).await;
    let mut idle = Client::connect(&place, &server).await;
    let mut pages = Client::connect(&place, &server).await;
    pages.query(&format!("pagestream_v3 {tenant} {timeline}")).await;
    pages.expect(b'W').await;
    // One that does not listen keeps nobody from stopping.
    let mut backup = Client::connect(&place, &server).await;
    backup.query(&format!("fullbackup {tenant} {timeline}")).await;
    assert_eq!(server.stop(&place).await, Some(0));
    for client in [&mut idle, &mut pages] {
        client.refusal().await.check("57P01", "shutting down");
        assert_eq!(client.next().await, None);
    }
}
