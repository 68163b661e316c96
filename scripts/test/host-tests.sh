#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests that need no guest: cargo test of the user space workspace and of the
# driver's pure logic (rust/host-tests), and the tests of these scripts.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

mkdir -p "$BUILD/log"

# cargo_test FOLDER : its cases, of all of its crates.
cargo_test() {
	local log=$BUILD/log/cargo-test-${1//\//-}.log status=0 line
	with_crates dev cargo test --quiet --locked --workspace --all-features -j "$JOBS" \
		--manifest-path "$TOP/$1/Cargo.toml" --no-fail-fast >"$log" 2>&1 || status=$?
	while read -r line; do
		[[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;\ ([0-9]+)\ ignored ]] || continue
		PASSED=$((PASSED + BASH_REMATCH[1]))
		FAILED=$((FAILED + BASH_REMATCH[2]))
		SKIPPED=$((SKIPPED + BASH_REMATCH[3]))
		printf '%s: %s\n' "$1" "${line#test result: }"
	done < <(grep '^test result:' "$log")
	[ "$status" -eq 0 ] && return
	cat "$log"
	grep -q '^test result: FAILED' "$log" || failed "cargo test in $1 (status $status)"
}

cargo_test samples
[ ! -e "$TOP/rust/host-tests/Cargo.toml" ] || cargo_test rust/host-tests
for test in "$SCRIPTS"/test/tests/test_*; do
	check "scripts/test/tests/${test##*/}" "$test"
done
totals
