//! What the simulator sees of the inside: events, marks, fault sites, planted bugs. Nothing of it exists in production.

/// Receives what the product tells about itself.
///
/// In production every method does nothing and the fault sites are off. Implementations must not block and must not draw
/// from the streams of the product.
pub trait Probe: Send + Sync {
    /// A state change worth a line in the trace: kind and `key=value` pairs.
    fn event(&self, kind: &'static str, detail: &dyn Fn() -> String) {
        let _ = (kind, detail);
    }

    /// A place that every sweep should reach.
    fn mark(&self, name: &'static str) {
        let _ = name;
    }

    /// Whether to take the unusual path at this site now.
    fn buggify(&self, site: &'static str) -> bool {
        let _ = site;
        false
    }

    /// Whether this planted bug is selected. Asked only in builds with the feature `planted-bugs`: see [`planted!`].
    fn planted(&self, bug: &'static str) -> bool {
        let _ = bug;
        false
    }
}

/// The probe of production.
pub struct NoProbe;

impl Probe for NoProbe {}

/// True if the named planted bug is compiled in and selected.
#[macro_export]
macro_rules! planted {
    ($env:expr, $bug:literal) => {
        cfg!(feature = "planted-bugs") && $env.probe.planted($bug)
    };
}

/// True where the simulator wants the unusual but permitted path now: a small batch, a late answer, a retry. Costs one virtual call;
/// never true in production.
#[macro_export]
macro_rules! buggify {
    ($env:expr, $site:literal) => {
        $env.probe.buggify($site)
    };
}
