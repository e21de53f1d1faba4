//! A crash at a counted operation: every change of a host's disk and every request to the object store burns the fuse by one.
//! When it is through, the operation and all that follow have no effect, until the harness takes the process down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by the seams of one host. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Fuse(Arc<State>);

#[derive(Debug, Default)]
struct State {
    operations: AtomicU64,
    /// The operation at which it is through; 0: none.
    at: AtomicU64,
    blown: AtomicBool,
}

impl Fuse {
    /// The host goes down right before its operation number `at`, counted from 1 from now on; 0: it does not.
    pub fn set(&self, at: u64) {
        self.0.operations.store(0, Ordering::Relaxed);
        self.0.at.store(at, Ordering::Relaxed);
    }

    /// Counts an operation. True: it must not happen, its caller is as good as dead.
    pub fn burn(&self) -> bool {
        if self.blown() {
            return true;
        }
        let operation = self.0.operations.fetch_add(1, Ordering::Relaxed) + 1;
        let through = operation == self.0.at.load(Ordering::Relaxed);
        self.0.blown.fetch_or(through, Ordering::Relaxed);
        through
    }

    pub fn blown(&self) -> bool {
        self.0.blown.load(Ordering::Relaxed)
    }

    /// The process was taken down; the next one's operations have effects again.
    pub fn renew(&self) {
        self.0.at.store(0, Ordering::Relaxed);
        self.0.blown.store(false, Ordering::Relaxed);
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.0.operations.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happens_from_the_named_operation_on() {
        let fuse = Fuse::default();
        fuse.set(3);
        assert_eq!([fuse.burn(), fuse.burn(), fuse.burn(), fuse.burn()], [false, false, true, true]);
        assert_eq!((fuse.blown(), fuse.operations()), (true, 3));
        fuse.renew();
        assert_eq!((fuse.burn(), fuse.burn(), fuse.operations()), (false, false, 5));
    }
}
