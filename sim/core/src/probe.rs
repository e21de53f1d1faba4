//! What the product tells the simulator: events into the trace, marks into a table, and which planted bug is on.

use crate::event;
use crate::trace::HostTrace;
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{DetRng, Probe, RngSource};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the planted bug of this run, if any.
pub type Planted = Option<Arc<str>>;

/// The marks of a host, kept over its incarnations.
#[derive(Default)]
pub struct SimProbe {
    marks: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    buggify: Arc<Mutex<Buggify>>,
}

/// The unusual paths of a host: one in four sites is live in a run, and acts now and then.
#[derive(Default)]
struct Buggify {
    ppm: u32,
    source: Option<RngSource>,
    sites: BTreeMap<&'static str, (bool, DetRng)>,
}

/// One in so many sites is live.
const LIVE_SITES: u64 = 4;

impl Buggify {
    fn acts(&mut self, site: &'static str) -> bool {
        let Some(source) = self.source.as_ref().filter(|_| self.ppm > 0) else { return false };
        let (live, rng) = self.sites.entry(site).or_insert_with(|| {
            let mut rng = source.stream(site);
            (below(&mut rng, LIVE_SITES) == 0, rng)
        });
        *live && below(rng, 1_000_000) < u64::from(self.ppm)
    }
}

struct Incarnation {
    marks: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    buggify: Arc<Mutex<Buggify>>,
    trace: HostTrace,
    planted: Planted,
}

impl SimProbe {
    pub fn marks(&self) -> BTreeMap<&'static str, u64> {
        self.marks.lock().clone()
    }

    /// From now on sites act, each time with this chance; 0: none does.
    pub fn set_buggify(&self, ppm: u32, source: &RngSource) {
        *self.buggify.lock() = Buggify { ppm, source: Some(source.child("buggify")), sites: BTreeMap::new() };
    }

    pub fn incarnation(&self, trace: HostTrace, planted: Planted) -> Arc<dyn Probe> {
        Arc::new(Incarnation { marks: self.marks.clone(), buggify: self.buggify.clone(), trace, planted })
    }
}

impl Probe for Incarnation {
    fn event(&self, kind: &'static str, detail: &dyn Fn() -> String) {
        event!(self.trace, kind, "{}", detail());
    }

    fn mark(&self, name: &'static str) {
        let mut marks = self.marks.lock();
        let count = marks.entry(name).or_default();
        *count += 1;
        if *count == 1 {
            event!(self.trace, "mark", "name={name}");
        }
    }

    fn buggify(&self, site: &'static str) -> bool {
        let acts = self.buggify.lock().acts(site);
        if acts {
            event!(self.trace, "fault", "buggify={site}");
            self.mark(site);
        }
        acts
    }

    fn planted(&self, bug: &'static str) -> bool {
        self.planted.as_deref() == Some(bug)
    }
}
