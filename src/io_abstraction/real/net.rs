//! Kernel sockets.

use crate::io_abstraction::net::{Address, BoxStream, Listener, Net};
use async_trait::async_trait;
use std::io;
use std::path::PathBuf;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

pub struct KernelNet;

#[async_trait]
impl Net for KernelNet {
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        Ok(match address {
            Address::Tcp { host, port } => Box::new(Tcp(TcpListener::bind((host.as_str(), *port)).await?)),
            Address::Unix(path) => Box::new(Unix(UnixListener::bind(path)?, path.clone())),
        })
    }

    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        Ok(match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

struct Tcp(TcpListener);
struct Unix(UnixListener, PathBuf);

#[async_trait]
impl Listener for Tcp {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer.to_string()))
    }

    fn local_address(&self) -> Address {
        match self.0.local_addr() {
            Ok(a) => Address::tcp(&a.ip().to_string(), a.port()),
            Err(_) => Address::tcp("", 0),
        }
    }
}

#[async_trait]
impl Listener for Unix {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, _) = self.0.accept().await?;
        Ok((Box::new(stream), format!("unix:{}", self.1.display())))
    }

    fn local_address(&self) -> Address {
        Address::Unix(self.1.clone())
    }
}
