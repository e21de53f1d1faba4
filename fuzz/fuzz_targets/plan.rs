//! Bytes to a plan to a run in the world `sched`, which no oracle may object to.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sim_sched::run::must_pass(bytes);
});
