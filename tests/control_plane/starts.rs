//! Starts of a node: the control plane is there, away, of no sense, or not to be asked.

use super::{Node, Plane, T, tenant};
use crate::support::Place;
use object_store::memory::InMemory;
use palimpsest::config::Config;
use palimpsest::control_plane::ControlPlane;
use palimpsest::io_abstraction::real;
use palimpsest::remote::{Authority as _, ControlPlaneAuthority, RemoteClient, StoreAuthority};
use palimpsest::types::{Generation, TenantId};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

const EMERGENCY: &str = "control_plane_emergency_mode = true";
const A: (&str, u64) = ("a", 7);
const OTHER: &str = "22222222222222222222222222222222";

#[tokio::test]
async fn a_start_waits_until_the_control_plane_has_answered() {
    let place = Place::new().await;
    let (none, mut plane) = (Value::Null, Plane::new(&place).await);
    plane.come(&place).await;
    let node = Node::start(&place, &plane, A, &[]).await;
    node.ready().await;
    node.ask("GET", "/v1/status", none.clone(), 200, "7").await;
    node.ask("GET", "/v1/tenant", none.clone(), 200, "[]").await;
    let create = |generation: Value| json!({ "new_tenant_id": T, "gc_horizon": 77, "generation": generation });
    node.ask("POST", "/v1/tenant", create(none.clone()), 400, "generation attribute missing").await;
    node.ask("POST", &tenant("/attach"), none.clone(), 400, "generation attribute missing").await;
    let given = plane.give(T, 7);
    node.ask("POST", "/v1/tenant", create(json!(given)), 201, T).await;
    assert_eq!(node.ask("GET", &tenant(""), none.clone(), 200, "Active").await["generation"], json!(given));
    node.stop().await;

    // Something that never came to be.
    plane.give(OTHER, 7);

    // Away: the node is up, says nothing of any tenant, and stops when it is told to.
    plane.go().await;
    for _ in 0..2 {
        let node = Node::start(&place, &plane, A, &[]).await;
        node.ask("GET", "/healthz", none.clone(), 200, "ok").await;
        for (method, path, body) in [
            ("GET", "/readyz", none.clone()),
            ("GET", "/v1/tenant", none.clone()),
            ("GET", &tenant(""), none.clone()),
            ("GET", &tenant("/timeline"), none.clone()),
            ("POST", "/v1/tenant", create(json!(9))),
            ("POST", &tenant("/detach"), none.clone()),
            ("DELETE", &tenant(""), none.clone()),
        ] {
            node.ask(method, path, body, 503, "the control plane has not said yet").await;
        }
        node.logged("start it, or set control_plane_api").await;
        if plane.re_attached() == 1 {
            node.stop().await;
            plane.come(&place).await;
            plane.say(Some("{\"tenants\": 1}"));
            // The next round meets one that makes no sense.
            let node = Node::start(&place, &plane, A, &[]).await;
            node.logged("look whether control_plane_api is the URL").await;
            node.ask("GET", &tenant(""), none.clone(), 503, "has not said").await;
            plane.say(None);
            node.ready().await;
            let info = node.ask("GET", &tenant(""), none.clone(), 200, "Active").await;
            assert_eq!(info["generation"], json!(plane.generation(T)));
            node.ask("GET", &tenant("/config"), none.clone(), 200, "\"gc_horizon\":77").await;
            node.stop().await;
            plane.go().await;
        } else {
            plane.come(&place).await;
            node.ready().await;
            node.ask("GET", &tenant(""), none.clone(), 200, "Active").await;
            node.poll(&format!("/v1/tenant/{OTHER}"), |status, _| status == 404).await;
            node.logged("remote storage does not know the tenant").await;
            node.stop().await;
        }
    }
    assert_eq!(plane.re_attached(), 3);

    // One that lost its memory gives generations again: nothing is written in them.
    plane.forget_to(T, 1);
    let node = Node::start(&place, &plane, A, &[]).await;
    node.ready().await;
    node.ask("GET", &tenant(""), none.clone(), 200, "the control plane gave generation 2, and this node had generation 3").await;
    plane.forget_to(T, 10);
    node.stop().await;
    let node = Node::start(&place, &plane, A, &[]).await;
    node.ready().await;
    assert_eq!(node.ask("GET", &tenant(""), none, 200, "Active").await["generation"], json!(11));
    node.stop().await;
}

#[tokio::test]
async fn an_emergency_goes_on_in_the_last_generations() {
    let place = Place::new().await;
    let (none, mut plane) = (Value::Null, Plane::new(&place).await);
    plane.come(&place).await;
    let node = Node::start(&place, &plane, A, &[]).await;
    node.ready().await;
    let given = plane.give(T, 7);
    node.ask("POST", "/v1/tenant", json!({ "new_tenant_id": T, "gc_horizon": 77, "generation": given }), 201, T).await;
    node.stop().await;
    plane.go().await;

    // As often as it takes.
    for horizon in [78, 79] {
        let node = Node::start(&place, &plane, A, &[EMERGENCY]).await;
        node.ready().await;
        let info = node.ask("GET", &tenant(""), none.clone(), 200, "Active").await;
        assert_eq!(info["generation"], json!(given), "{info}");
        node.ask("GET", &tenant("/config"), none.clone(), 200, &format!("\"gc_horizon\":{}", horizon - 1)).await;
        node.ask("PUT", "/v1/tenant/config", json!({ "tenant_id": T, "gc_horizon": horizon }), 200, "null").await;
        node.stop().await;
    }

    // Another node got it meanwhile, and says so in remote storage.
    plane.come(&place).await;
    let newer = plane.give(T, 8);
    let other = Node::start(&place, &plane, ("b", 8), &[]).await;
    other.ready().await;
    other.ask("GET", &tenant("/config"), none.clone(), 200, "\"gc_horizon\":79").await;
    other.stop().await;
    let node = Node::start(&place, &plane, A, &[EMERGENCY]).await;
    node.ready().await;
    let newer = format!("generation {} is attached already", newer + 1);
    node.ask("GET", &tenant(""), none.clone(), 200, &newer).await;
    node.stop().await;

    // Asked again, the control plane says that the tenant is elsewhere: its files stay until somebody detaches it.
    let node = Node::start(&place, &plane, A, &[]).await;
    node.ready().await;
    node.ask("GET", &tenant(""), none.clone(), 404, "was not found").await;
    let home = place.path("a").join("tenants").join(T);
    assert!(home.exists() && node.log().contains("its files are kept until it is detached"));
    node.ask("POST", &tenant("/detach"), none.clone(), 200, "null").await;
    assert!(!home.exists());
    node.stop().await;
}

#[tokio::test]
async fn the_control_plane_and_remote_storage_both_have_to_agree() {
    let place = Place::new().await;
    let mut plane = Plane::new(&place).await;
    plane.come(&place).await;
    let env = real::env(Arc::new(InMemory::new())).unwrap();
    let settings = [format!("control_plane_api = '{}'", plane.url), format!("control_plane_api_token = '{}'", super::TOKEN)];
    let config = Config::load(Path::new("/nowhere"), None, &settings).unwrap();
    let control_plane = ControlPlane::new(&env, &config).unwrap().unwrap();
    let remote = RemoteClient::new(&env, Generation(1));
    let authority = ControlPlaneAuthority { control_plane, store: StoreAuthority(remote.clone()) };
    let id: TenantId = T.parse().unwrap();
    let valid = async |generation| authority.validate(&[(id, Generation(generation))]).await.unwrap().contains(&id);
    remote.claim(id, serde_json::Map::new(), false, None).await.unwrap();
    assert!(!valid(1).await, "the control plane does not know the tenant");
    plane.give(T, 1);
    assert!(valid(1).await);
    // A node that nobody told of the control plane.
    remote.in_generation(Generation(2)).claim(id, serde_json::Map::new(), false, None).await.unwrap();
    assert!(!valid(1).await && !valid(2).await);
    plane.give(T, 2);
    assert!(valid(2).await && !valid(1).await);
    plane.say(Some("{}"));
    assert!(authority.validate(&[(id, Generation(2))]).await.is_err(), "says nothing of any");
}
