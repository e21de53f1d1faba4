//! Nodes that share one remote storage under a control plane: starts, moves, and what waits while it is away.

mod moves;
mod plane;
mod starts;

use crate::api::{JSON, http};
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::io_abstraction::disk::read_file;
use plane::{Plane, TOKEN};
use serde_json::Value;
use std::time::Duration;

const T: &str = "11111111111111111111111111111111";
const POLLS: u32 = 1200;

fn tenant(rest: &str) -> String {
    format!("/v1/tenant/{T}{rest}")
}

/// A node of the control plane.
struct Node<'a> {
    place: &'a Place,
    name: &'static str,
    server: PalServer,
}

impl Node<'_> {
    async fn start<'a>(place: &'a Place, plane: &Plane, (name, id): (&'static str, u64), more: &[&str]) -> Node<'a> {
        let settings = [
            format!("id = {id}"),
            format!("control_plane_api = '{}'", plane.url),
            format!("control_plane_api_token = '{TOKEN}'"),
            format!("remote_storage.local_path = '{}'", place.path("store").display()),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Node { place, name, server: PalServer::start(place, name, &settings).await }
    }

    async fn try_ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, text) = http(self.place, &self.server.http_address(), method, path, JSON, &bytes).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A request whose status is known, and a part of the answer.
    async fn ask(&self, method: &str, path: &str, body: Value, status: u16, part: &str) -> Value {
        let (got, answer) = self.try_ask(method, path, body).await;
        assert!(got == status && answer.to_string().contains(part), "{method} {path}: {got} {answer}, not {status} with {part}");
        answer
    }

    /// Polls until the answer is what is waited for.
    async fn poll(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let mut last = (0, Value::Null);
        for _ in 0..POLLS {
            last = self.try_ask("GET", path, Value::Null).await;
            if wanted(last.0, &last.1) {
                return last.1;
            }
            self.pause().await;
        }
        panic!("{path} never came to what was waited for, last {last:?}: {}", self.log());
    }

    async fn ready(&self) {
        self.poll("/readyz", |status, _| status == 200).await;
    }

    async fn pause(&self) {
        self.place.env.clock.sleep(Duration::from_millis(50)).await;
    }

    fn log(&self) -> String {
        let bytes = read_file(&*self.place.env.disk, &self.place.path(&format!("{}.log", self.name))).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Waits until the log says something.
    async fn logged(&self, part: &str) {
        for _ in 0..POLLS {
            if self.log().contains(part) {
                return;
            }
            self.pause().await;
        }
        panic!("the log never says {part:?}: {}", self.log());
    }

    async fn stop(self) {
        assert_eq!(self.server.stop(self.place).await, Some(0));
    }
}
