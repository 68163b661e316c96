#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the KUnit suites of the kernel crates: they run when the module is loaded in
# the debug kernel, and report to the kernel log. What ran is compared with
# what stands in the source.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

mkdir -p "$BUILD/log"
list=$BUILD/log/kunit-debug.list
in_root "$SCRIPTS/test/kunit_cases.py" "$TOP/rust/hmm" "$TOP/rust/emu" "$TOP/rust/dmirror" >"$list"
# run NAME APPEND : the suites with these parameters of the kernel.
run() {
	local status=0
	output=$BUILD/log/$1-debug
	rm -f "$output.log"
	KERNEL=debug MODULE=dmirror NAME=$1 CMD=true APPEND="kunit.enable=1 kunit.autorun=1 $2 ${APPEND:-}" \
		"$SCRIPTS/guest/guest.sh" || status=$?
	# Suites of the kernel's own run while it boots; ours, from this line on.
	sed -n '/dmirror: loading out-of-tree module/,$p' "$output.log" >"$output.ktap"
	in_root "$SCRIPTS/test/ktap.py" --expect "$list" "$output.ktap" >"$output.cases" || true
	sed '$d' "$output.cases"
	add_totals "$output.cases" || failed "the results of $1 could not be read"
	[ "$status" -eq 0 ] || failed "the guest of $1 (status $status, see above)"
	[ "$status" -ne 120 ] || complaint "$output.log"
}

run kunit ""
# Without memory cgroups no page is charged, which was once taken for its being in use.
run kunit-nocgroup cgroup_disable=memory
note "in the source: $(cut -d. -f1 "$list" | sort -u | wc -l) suites with $(wc -l <"$list") cases"
totals
