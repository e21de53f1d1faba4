//! A control plane inside the test: who has which tenant in which generation, over HTTP on loopback.

use crate::support::Place;
use palimpsest::io_abstraction::{Address, BoxStream, Task};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What nodes have to show.
pub const TOKEN: &str = "let.me-in";

#[derive(Default)]
struct State {
    /// Node and generation of each tenant.
    tenants: BTreeMap<String, (u64, u32)>,
    /// Said in place of every answer.
    garbage: Option<&'static str>,
    re_attached: u32,
    /// Tenant and generation of what was called not valid.
    refused: Vec<(String, u32)>,
}

pub struct Plane {
    pub url: String,
    address: Address,
    state: Arc<Mutex<State>>,
    task: Option<Task>,
}

impl Plane {
    /// It listens from the first `come` on.
    pub async fn new(place: &Place) -> Plane {
        let port = place.free_port().await;
        let url = format!("http://127.0.0.1:{port}/upcall/v1");
        Plane { url, address: Address::tcp("127.0.0.1", port), state: Arc::default(), task: None }
    }

    pub async fn come(&mut self, place: &Place) {
        let mut listener = place.env.net.listen(&self.address).await.unwrap();
        let (state, tasks) = (self.state.clone(), place.env.tasks.clone());
        self.task = Some(place.env.tasks.spawn("plane", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                tasks.spawn("plane-request", async move {
                    // A node that was stopped hangs up.
                    let _ = serve(stream, &state).await;
                });
            }
        }));
    }

    pub async fn go(&mut self) {
        let task = self.task.take().expect("it is here");
        task.abort();
        task.join().await;
    }

    /// Gives a tenant to a node, in the next generation, which is told.
    pub fn give(&self, tenant: &str, node: u64) -> u32 {
        let mut state = self.state.lock();
        let now = state.tenants.entry(tenant.to_string()).or_insert((node, 0));
        *now = (node, now.1 + 1);
        now.1
    }

    /// Takes a tenant's generation back, as a control plane does that lost its memory.
    pub fn forget_to(&self, tenant: &str, generation: u32) {
        self.state.lock().tenants.get_mut(tenant).unwrap().1 = generation;
    }

    pub fn say(&self, garbage: Option<&'static str>) {
        self.state.lock().garbage = garbage;
    }

    pub fn generation(&self, tenant: &str) -> u32 {
        self.state.lock().tenants[tenant].1
    }

    pub fn re_attached(&self) -> u32 {
        self.state.lock().re_attached
    }

    pub fn refused(&self, tenant: &str, generation: u32) -> usize {
        self.state.lock().refused.iter().filter(|(t, g)| t == tenant && *g == generation).count()
    }
}

/// One request.
async fn serve(mut stream: BoxStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        let mut some = [0; 4096];
        let len = stream.read(&mut some).await?;
        if len == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&some[..len]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let wanted = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |len| len.parse().unwrap());
        if body.len() == wanted {
            break (head.to_string(), body.to_string());
        }
    };
    let (status, answer) = answer(&mut state.lock(), &head, &body);
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}", answer.len());
    stream.write_all(text.as_bytes()).await
}

fn answer(state: &mut State, head: &str, body: &str) -> (&'static str, String) {
    if !head.lines().any(|line| line == format!("authorization: Bearer {TOKEN}")) {
        return ("401 Unauthorized", String::new());
    }
    if let Some(garbage) = state.garbage {
        return ("200 OK", garbage.to_string());
    }
    let body: Value = serde_json::from_str(body).unwrap();
    let tenants: Vec<Value> = match head.split(' ').nth(1).unwrap() {
        "/upcall/v1/re-attach" => {
            state.re_attached += 1;
            let node = body["node_id"].as_u64().unwrap();
            let own = state.tenants.iter_mut().filter(|(_, (of, _))| *of == node);
            own.map(|(id, (_, generation))| {
                *generation += 1;
                json!({ "id": id, "gen": generation, "mode": "AttachedSingle" })
            })
            .collect()
        }
        "/upcall/v1/validate" => {
            let judged = body["tenants"].as_array().unwrap().iter().map(|asked| {
                let (id, generation) = (asked["id"].as_str().unwrap(), asked["gen"].as_u64().unwrap() as u32);
                let valid = state.tenants.get(id).is_some_and(|(_, newest)| *newest == generation);
                if !valid {
                    state.refused.push((id.to_string(), generation));
                }
                json!({ "id": id, "valid": valid })
            });
            judged.collect()
        }
        _ => return ("404 Not Found", String::new()),
    };
    ("200 OK", json!({ "tenants": tenants }).to_string())
}
