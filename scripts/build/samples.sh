#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the user space programs of samples/ as static binaries, in the build
# root. Prints the folder that holds them. Arguments go to cargo build.
. "$(dirname "$0")/../lib/lib.sh"

target=x86_64-unknown-linux-gnu
# With --target the flags are not applied to build scripts and macros, which
# could not be linked statically.
in_root env RUSTFLAGS='-C target-feature=+crt-static' CARGO_TARGET_DIR="$BUILD/cargo" \
	cargo build --quiet --release --locked --target "$target" \
	--manifest-path "$TOP/samples/Cargo.toml" --workspace -j "$JOBS" "$@" >&2
printf '%s\n' "$BUILD/cargo/$target/release"
