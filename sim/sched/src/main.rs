//! The program of the `sched` world, which `cargo sim` builds and calls.

fn main() -> std::process::ExitCode {
    sim_core::backend::main(sim_sched::run::run)
}
