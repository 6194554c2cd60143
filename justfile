# `just verify` only looks; `just fix` changes.

# Everything that a change must pass.
verify: format lint doc test

format:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

test:
    cargo test --workspace

# The tests that grow with their bounds, run for long; each prints its seed.
soak states="3000000":
    SHERD_POWER_LOSS_STATES={{states}} cargo test --release -p sherd-engine --test power_loss -- --nocapture

# The simulated cluster, seed by seed; a failure names the one to replay.
simulate seeds="100000":
    SHERD_SIMULATIONS={{seeds}} cargo test --release --test simulation a_cluster -- --nocapture

# Licences, advisories and sources of the dependencies; needs cargo-deny.
deny:
    cargo deny check

# Applies what can be applied automatically.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all

# Fuzzes a target of fuzz/fuzz_targets for some seconds; needs cargo-fuzz and a nightly toolchain. There is no unsafe code
# of ours, so the address sanitizer would only slow it down. What is new goes to fuzz/target/corpus.
fuzz TARGET SECONDS:
    mkdir -p fuzz/target/corpus/{{TARGET}}
    cargo +nightly fuzz run --sanitizer none {{TARGET}} fuzz/target/corpus/{{TARGET}} fuzz/corpus/{{TARGET}} -- -max_total_time={{SECONDS}} -max_len=16384
