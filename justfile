# Each recipe is a line or two of commands that work without just.

# List the recipes.
default:
    @just --list

# Format, lints, rules about the source text.
check:
    cargo fmt --check && cargo clippy --workspace --all-targets -- -D warnings
    cargo test --test main tidy:: documentation::

# Everything that is tested; finds or installs PostgreSQL.
test *ARGS:
    cargo test --workspace {{ARGS}}

# The main job on a real PostgreSQL.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# One scenario with one seed, with its trace in target/trace.txt.
sim SCENARIO SEED:
    cargo sim run --scenario {{SCENARIO}} --seed {{SEED}} --trace target/trace.txt

# Every scenario with the first N seeds.
sim-all N:
    cargo sim run --seeds 0..{{N}}

# Runs of the same seed in two processes must be equal.
twice N="20":
    cargo sim check --seeds 0..{{N}}

# Takes the stories of the small runs as they are now; `git diff snapshots` is what to review.
snap:
    INSTA_UPDATE=always cargo test --package sim-sched --package sim-net stories::

# Small plans of any bytes in the world `sched`; needs nightly and cargo-fuzz, which sets RUSTFLAGS and so has to be told the flags.
fuzz SECONDS="60":
    RUSTFLAGS="--cfg tokio_unstable --cfg madsim" cargo +nightly fuzz run plan -- -max_total_time={{SECONDS}} -max_len=700

# The planted bugs must be found.
mutants:
    cargo sim mutants

# Ratios against PostgreSQL's own tools, measured in one run; name some to run only them, --full for the long form.
bench *ARGS:
    cargo bench --bench peers -- {{ARGS}}

# Documentation of the library.
doc:
    cargo doc --no-deps --open

# Exactly what CI runs.
ci:
    .ci/run
