#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the user space programs of samples/ as static binaries, in the build
# root. Prints the folder that holds them. Arguments go to cargo build.
. "$(dirname "$0")/../lib/lib.sh"

with_crates release "${PROGRAM[@]}" --quiet --locked --manifest-path "$TOP/samples/Cargo.toml" --workspace -j "$JOBS" "$@" >&2
printf '%s\n' "$BUILD/cargo-release${CROSS:+-$ARCH}/$PROGRAM_TARGET/release"
