//! Assertions about `Net`, on one host's own address.

use palimpsest::io_abstraction::{Address, BoxStream, Clock, ClockExt as _, Net, Tasks};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longest wait for something that must happen.
const LIMIT: Duration = Duration::from_secs(30);

/// What the checks need.
#[derive(Clone)]
pub struct Seams {
    pub net: Arc<dyn Net>,
    pub tasks: Tasks,
    pub clock: Arc<dyn Clock>,
}

/// Runs all of them. `host` is a name of the host itself, such as `127.0.0.1`.
pub async fn run(seams: &Seams, host: &str) {
    echo(seams, host).await;
    large_transfer(seams, host).await;
    half_close(seams, host).await;
    peer_closes(seams, host).await;
    refused(seams, host).await;
    address_in_use(seams, host).await;
    accepted_streams_outlive_their_listener(seams, host).await;
}

/// A connected pair: (client side, server side).
async fn pair(seams: &Seams, host: &str) -> (BoxStream, BoxStream) {
    let mut listener = seams.net.listen(&Address::tcp(host, 0)).await.expect("listens on any free port");
    let address = listener.local_address();
    assert!(matches!(&address, Address::Tcp { port, .. } if *port != 0), "{address}");
    let (net, to) = (seams.net.clone(), address.clone());
    let (send, receive) = tokio::sync::oneshot::channel();
    seams.tasks.spawn("connect", async move {
        let _ = send.send(net.connect(&to).await.expect("connects"));
    });
    let (server, peer) = seams.clock.timeout(LIMIT, listener.accept()).await.expect("in time").expect("accepts");
    assert!(!peer.is_empty());
    (receive.await.expect("connects"), server)
}

async fn echo(seams: &Seams, host: &str) {
    let (mut client, mut server) = pair(seams, host).await;
    for text in [&b"ping"[..], b"a second, longer message"] {
        client.write_all(text).await.expect("writes");
        client.flush().await.expect("flushes");
        let mut got = vec![0; text.len()];
        server.read_exact(&mut got).await.expect("reads");
        assert_eq!(got, text);
        server.write_all(&got).await.expect("writes");
        server.flush().await.expect("flushes");
        let mut back = vec![0; text.len()];
        client.read_exact(&mut back).await.expect("reads");
        assert_eq!(back, text);
    }
}

async fn large_transfer(seams: &Seams, host: &str) {
    let (mut client, mut server) = pair(seams, host).await;
    let total = 1 << 20;
    seams.tasks.spawn("write", async move {
        let bytes: Vec<u8> = (0..total).map(|n: u32| (n % 251) as u8).collect();
        client.write_all(&bytes).await.expect("writes");
        client.flush().await.expect("flushes");
        client.shutdown().await.expect("shuts down");
    });
    let mut got = Vec::new();
    seams.clock.timeout(LIMIT, server.read_to_end(&mut got)).await.expect("in time").expect("reads to the end");
    assert_eq!(got.len(), total as usize);
    assert!(got.iter().enumerate().all(|(n, b)| *b == (n % 251) as u8), "in order and unchanged");
}

async fn half_close(seams: &Seams, host: &str) {
    let (mut client, mut server) = pair(seams, host).await;
    client.write_all(b"question").await.expect("writes");
    client.shutdown().await.expect("closes its sending side");
    let mut got = Vec::new();
    seams.clock.timeout(LIMIT, server.read_to_end(&mut got)).await.expect("in time").expect("reads to the end");
    assert_eq!(got, b"question", "shutdown flushes");
    server.write_all(b"answer").await.expect("the other direction lives on");
    server.flush().await.expect("flushes");
    let mut answer = [0; 6];
    seams.clock.timeout(LIMIT, client.read_exact(&mut answer)).await.expect("in time").expect("reads");
    assert_eq!(&answer, b"answer");
}

async fn peer_closes(seams: &Seams, host: &str) {
    let (client, mut server) = pair(seams, host).await;
    drop(client);
    let mut byte = [0];
    let read = seams.clock.timeout(LIMIT, server.read(&mut byte)).await.expect("the end arrives");
    assert!(matches!(read, Ok(0)) || read.is_err(), "{read:?}");
    let failed = seams.clock.timeout(LIMIT, async {
        loop {
            let write = async {
                server.write_all(b"anybody there?").await?;
                server.flush().await
            };
            if write.await.is_err() {
                return;
            }
            seams.clock.sleep(Duration::from_millis(10)).await;
        }
    });
    failed.await.expect("writing to a closed peer fails in the end");
}

async fn refused(seams: &Seams, host: &str) {
    let listener = seams.net.listen(&Address::tcp(host, 0)).await.expect("listens");
    let address = listener.local_address();
    drop(listener);
    match seams.net.connect(&address).await {
        Ok(_) => panic!("nobody listens at {address}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
    }
}

async fn address_in_use(seams: &Seams, host: &str) {
    let listener = seams.net.listen(&Address::tcp(host, 0)).await.expect("listens");
    match seams.net.listen(&listener.local_address()).await {
        Ok(_) => panic!("the port is taken"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
    }
    let address = listener.local_address();
    drop(listener);
    seams.net.listen(&address).await.expect("a port is free again once its listener is gone");
}

async fn accepted_streams_outlive_their_listener(seams: &Seams, host: &str) {
    let (mut client, mut server) = pair(seams, host).await; // the listener is dropped at the end of `pair`
    client.write_all(b"x").await.expect("writes");
    client.flush().await.expect("flushes");
    let mut byte = [0];
    seams.clock.timeout(LIMIT, server.read_exact(&mut byte)).await.expect("in time").expect("reads");
    server.write_all(b"y").await.expect("writes");
    server.flush().await.expect("flushes");
    seams.clock.timeout(LIMIT, client.read_exact(&mut byte)).await.expect("in time").expect("reads");
    assert_eq!(&byte, b"y");
}
