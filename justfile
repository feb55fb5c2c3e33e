# Tasks. `just` lists them; none is needed to build.

# the main job, in the lab
demo *ARGS:
    cargo run --release -p knothole-netsim -- demo {{ARGS}}

# all tests
test:
    cargo test --workspace

# what CI runs besides the tests
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
    cargo deny --offline check bans licenses sources

# attempts in the in-memory world
soak SEEDS="10000":
    cargo run --release -p knothole-netsim -- soak --seeds {{SEEDS}}
