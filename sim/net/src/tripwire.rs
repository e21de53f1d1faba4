//! Catches what goes past the seams: entropy and clocks of the machine, asked for while a simulated task is polled.
//!
//! This program defines the C library's `getrandom`, `getentropy` and `clock_gettime` itself. Outside of a poll they go on to
//! the kernel. Inside one they print where they were called from and abort, because the run could not be repeated. std's
//! hash keys are the one exception: each thread draws them once, so they are drawn from the seed before the first poll.

#![allow(unsafe_code, reason = "defines functions of the C library")]

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::hash::RandomState;
use std::sync::OnceLock;

/// Files from which may be asked, each with the reason why the answer cannot be seen.
const ALLOWED: [(&str, &str); 2] = [
    ("src/http/server.rs", "an origin for hyper's instants: only differences to it matter"),
    ("/src/common/date.rs", "hyper keeps a date for a header that is switched off"),
];

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    /// Entropy comes from here instead, while it is set.
    static TAMED: Cell<Option<u64>> = const { Cell::new(None) };
    /// Chains of callers that were looked up and are allowed.
    static KNOWN: RefCell<BTreeSet<Callers>> = const { RefCell::new(BTreeSet::new()) };
}

/// Return addresses, innermost first: as many as reach out of this file and the standard library.
type Callers = [usize; 16];

/// Cheap: names of places, which take milliseconds, are looked up for a chain that is not known yet only.
fn callers() -> Callers {
    let mut addresses = [std::ptr::null_mut::<c_void>(); 16];
    // SAFETY: the array has as many places as is said.
    unsafe { libc::backtrace(addresses.as_mut_ptr(), addresses.len() as c_int) };
    addresses.map(|address| address as usize)
}

/// Watches while it lives.
pub struct Watch(bool);

pub fn watch() -> Watch {
    Watch(WATCHING.replace(true))
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHING.set(self.0);
    }
}

/// Draws the thread's hash keys from the seed. Must be called before anything on this thread makes a hash map.
pub fn tame_hash_keys(seed: u64) {
    TAMED.set(Some(seed));
    let _ = RandomState::new();
    TAMED.set(None);
}

fn tripped(function: &str) {
    if !WATCHING.replace(false) {
        return;
    }
    let callers = callers();
    if KNOWN.with_borrow(|known| known.contains(&callers)) {
        WATCHING.set(true);
        return;
    }
    let trace = Backtrace::force_capture().to_string();
    let caller = caller(&trace);
    if !ALLOWED.iter().any(|(file, _)| caller.is_some_and(|place| place.contains(file))) {
        eprintln!("TRIPWIRE: {function} was called while a simulated task was polled; this run cannot be repeated\n{trace}");
        std::process::abort();
    }
    KNOWN.with_borrow_mut(|known| known.insert(callers));
    WATCHING.set(true);
}

/// Where the call came from: the first place outside of this file and of the standard library.
fn caller(trace: &str) -> Option<&str> {
    let places = trace.lines().filter_map(|line| line.trim_start().strip_prefix("at "));
    places.into_iter().find(|place| !place.starts_with("/rustc/") && !place.contains("/tripwire.rs"))
}

/// Fills the buffer if entropy is tamed now.
///
/// # Safety
/// `buf` points to `len` bytes that may be written.
unsafe fn tamed(buf: *mut c_void, len: size_t) -> bool {
    let Some(mut state) = TAMED.get() else { return false };
    for at in 0..len {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        // SAFETY: inside the buffer.
        unsafe { buf.cast::<u8>().add(at).write((mixed ^ (mixed >> 27)) as u8) };
    }
    TAMED.set(Some(state));
    true
}

/// As the C library's.
///
/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buf: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    // SAFETY: the caller's buffer.
    if unsafe { tamed(buf, len) } {
        return len as ssize_t;
    }
    tripped("getrandom");
    // SAFETY: the caller's arguments go on as they are.
    unsafe { libc::syscall(libc::SYS_getrandom, buf, len, c_long::from(flags)) as ssize_t }
}

/// As the C library's.
///
/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buf: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the caller's buffer.
    if unsafe { tamed(buf, len) } {
        return 0;
    }
    tripped("getentropy");
    // SAFETY: the caller's arguments go on as they are.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, buf, len, 0) };
    if got == len as c_long { 0 } else { -1 }
}

/// As the C library's.
///
/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    tripped("clock_gettime");
    match library_clock() {
        // SAFETY: the caller's arguments go on as they are.
        Some(function) => unsafe { function(clock, time) },
        // SAFETY: as above.
        None => unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) as c_int },
    }
}

type ClockGettime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;

/// The C library's own, which asks the kernel without entering it: turmoil looks at the clock at every step of every machine.
fn library_clock() -> Option<ClockGettime> {
    static FOUND: OnceLock<Option<ClockGettime>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: the name ends with a zero.
        let address = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
        // SAFETY: a function of that name has that type.
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, ClockGettime>(address) })
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests what happens when somebody uses the back doors")]
mod tests {
    use super::*;
    use std::hash::BuildHasher as _;
    use std::process::Command;

    /// Set for the process in which a test is allowed to trip.
    const TRIPS: &str = "SIM_NET_TRIPS";

    /// Runs a test of this program in a process of its own. Gives whether it passed, and what it printed.
    fn alone(test: &str) -> (bool, String) {
        let program = std::env::current_exe().expect("tests run from a file");
        let output = Command::new(program).args(["--exact", test, "--nocapture"]).env(TRIPS, "yes").output().expect("runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn calls_of_a_task_are_caught_and_others_are_not() {
        let _ = std::time::Instant::now();
        for (test, function) in [("asks_for_the_time", "clock_gettime"), ("asks_for_entropy", "getrandom")] {
            let (passed, said) = alone(&format!("tripwire::tests::{test}"));
            assert!(!passed && said.contains(&format!("TRIPWIRE: {function}")) && said.contains(test), "{said}");
        }
    }

    #[test]
    fn hash_keys_come_from_the_seed() {
        let hash = |seed| {
            let drawn = move || {
                tame_hash_keys(seed);
                let _watch = watch();
                RandomState::new().hash_one(7)
            };
            std::thread::spawn(drawn).join().expect("no panic")
        };
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }

    #[test]
    fn asks_for_the_time() {
        if std::env::var(TRIPS).is_ok() {
            let _watch = watch();
            let _ = std::time::Instant::now();
        }
    }

    #[test]
    fn asks_for_entropy() {
        if std::env::var(TRIPS).is_ok() {
            let asked = || {
                let _watch = watch();
                RandomState::new()
            };
            std::thread::spawn(asked).join().expect("no panic");
        }
    }
}
