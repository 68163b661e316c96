#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the KUnit suites of the kernel crates: they run when the module is loaded in
# the debug kernel, and report to the kernel log. What ran is compared with
# what stands in the source.
. "$(dirname "$0")/lib.sh"
. "$SCRIPTS/cases.sh"

mkdir -p "$BUILD/log"
output=$BUILD/log/kunit-debug
in_root "$SCRIPTS/kunit_cases.py" "$TOP/rust/hmm" "$TOP/rust/emu" "$TOP/rust/dmirror" >"$output.list"
rm -f "$output.log"
status=0
KERNEL=debug MODULE=dmirror NAME=kunit CMD=true APPEND="kunit.enable=1 kunit.autorun=1 ${APPEND:-}" \
	"$SCRIPTS/guest.sh" || status=$?
# Suites of the kernel's own run while it boots; ours, from this line on.
sed -n '/dmirror: loading out-of-tree module/,$p' "$output.log" >"$output.ktap"
in_root "$SCRIPTS/ktap.py" --expect "$output.list" "$output.ktap" >"$output.cases" || true
sed '$d' "$output.cases"
add_totals "$output.cases" || failed "the results could not be read"
[ "$status" -eq 0 ] || failed "the guest (status $status, see above)"
note "in the source: $(cut -d. -f1 "$output.list" | sort -u | wc -l) suites with $(wc -l <"$output.list") cases"
totals
