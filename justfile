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

# The simulator: without arguments 200 seeds of every scenario in both worlds.
sim *ARGS:
    cargo sim {{ARGS}}

# Runs of the same seed in two processes must be equal; --debug: also of a build that is not optimised.
twice *ARGS:
    cargo sim check {{ARGS}}

# Makes a failing seed small: just shrink --scenario smoke --world net --seed 7.
shrink *ARGS:
    cargo sim shrink {{ARGS}}

# The plans of all bugs that were found once.
regress:
    cargo sim regress

# A short run, crashed at each of its operations in turn.
exhaustive:
    cargo sim exhaustive

# What 500 seeds reach, and what they do not.
coverage *ARGS:
    cargo sim coverage {{ARGS}}

# Takes the stories of the small runs as they are now; `git diff snapshots` is what to review.
snap:
    INSTA_UPDATE=always cargo test --package sim-sched --package sim-net stories::

# Small plans of any bytes in the world `sched`; needs nightly and cargo-fuzz, which sets RUSTFLAGS and so has to be told the flags.
fuzz SECONDS="60":
    RUSTFLAGS="--cfg tokio_unstable --cfg madsim" cargo +nightly fuzz run plan -- -max_total_time={{SECONDS}} -max_len=700

# The planted bugs must be found.
mutants *ARGS:
    cargo sim mutants {{ARGS}}

# Ratios against PostgreSQL's own tools, measured in one run; name some to run only them, --full for the long form.
bench *ARGS:
    cargo bench --bench peers -- {{ARGS}}
    cargo sim speed

# Documentation of the library.
doc:
    cargo doc --no-deps --open

# Exactly what CI runs.
ci:
    .ci/run
