#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# All of the tests, part by part, whatever the parts before came to. Ends with
# `N passed, N failed, N skipped`, summed over all parts.
#
#   scripts/test.sh [PART...]      default: all; --list names them
. "$(dirname "$0")/lib.sh"
. "$SCRIPTS/cases.sh"

# Name and command of each part. The quick ones come first.
parts=(
	"lint:lint.sh"
	"doc:doc.sh"
	"host:host-tests.sh"
	"compile-fail:compile-fail.sh"
	"guest-stock:guest-checks.sh stock"
	"selftest-stock:selftest.sh stock"
	"selftest-reserved:selftest.sh reserved"
	"kunit:kunit.sh"
	"guest-debug:guest-checks.sh debug"
	"selftest-debug:selftest.sh debug"
	"conformance:conformance.sh debug"
)

if [ "${1:-}" = --list ]; then
	printf '%s\n' "${parts[@]%%:*}"
	exit
fi
for name; do
	[[ " ${parts[*]%%:*} " == *" $name "* ]] || die "there is no part '$name'" "scripts/test.sh --list names them."
done

table="" ran=()
start=$SECONDS
mkdir -p "$BUILD/log"
"$SCRIPTS/stock-kernel.sh" >/dev/null
for part in "${parts[@]}"; do
	name=${part%%:*}
	[ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
	# What takes so long the first time is no time of the part's.
	[[ $name != kunit && $name != conformance && $name != *-debug ]] || "$SCRIPTS/debug-kernel.sh" >/dev/null || true
	note "$name"
	before=("$PASSED" "$FAILED" "$SKIPPED" "$SECONDS")
	output=$BUILD/log/test-$name.out
	ran+=("$output")
	status=0
	# shellcheck disable=SC2086 # a command and its argument
	"$SCRIPTS"/${part#*:} | tee "$output" || status=${PIPESTATUS[0]}
	remark=
	if ! add_totals "$output"; then
		FAILED=$((FAILED + 1))
		remark="  ended without a result (status $status)"
	elif [ "$status" -ne 0 ] && [ "$FAILED" -eq "${before[1]}" ]; then
		FAILED=$((FAILED + 1))
		remark="  exit status $status"
	elif [ "$((PASSED + FAILED + SKIPPED))" -eq "$((before[0] + before[1] + before[2]))" ]; then
		FAILED=$((FAILED + 1))
		remark="  nothing ran"
	fi
	table+=$(printf '%-20s %6d %6d %7d %5d s%s' "$name" $((PASSED - before[0])) $((FAILED - before[1])) \
		$((SKIPPED - before[2])) $((SECONDS - before[3])) "$remark")$'\n'
done

printf '\n%-20s %6s %6s %7s\n%s' part passed failed skipped "$table"
if [ "$FAILED" -gt 0 ]; then
	# What failed, and the first lines of what is said of it.
	printf '\n'
	awk '
		/^failed/ { part = FILENAME; sub(/.*\/test-/, "", part); sub(/\.out$/, "", part)
			sub(/^failed */, ""); print part ": " $0; lines = 8; next }
		/^        / && lines-- > 0 { print; next }
		{ lines = 0 }
	' "${ran[@]}"
fi
printf '\nin %d min %d s\n' $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
totals
