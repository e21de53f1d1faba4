//! The page service as clients meet it: extended queries, clients that do not read, base backups, refusals.

mod base_backup;
pub mod client;
mod extended;
mod refusals;
mod slow;

use crate::pal::PalServer;
use crate::support::Place;

/// Makes a tenant with one timeline, a fresh cluster; their ids.
async fn timeline(place: &Place, server: &PalServer) -> (String, String) {
    let tenant = server.pal(place, &["tenant", "create"]).await.ok().to_string();
    let timeline = server.pal(place, &["timeline", "create", "--tenant", &tenant]).await.ok().to_string();
    (tenant, timeline)
}
