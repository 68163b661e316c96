#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Which kernel series is chosen, of those that a package index offers.
. "$(dirname "$0")/../../lib/lib.sh"

# expect SERIES TESTED OFFERED : both are lists, the newest last.
expect() {
	local chosen
	read -ra KERNEL_SERIES <<<"$2"
	# shellcheck disable=SC2086 # words
	chosen=$(choose_series $3)
	[ "$chosen" = "$1" ] || die "tested on $2, offered $3: $chosen was chosen, not $1"
}

expect 7.3 "7.2 7.3" "6.12 7.2 7.3"
expect 7.2 "7.2 7.3" "6.12 7.2"
expect 7.3 "7.2 7.3" "7.3 7.4"
expect 7.2 "7.2 7.3" "7.2 7.4"
expect 7.10 "7.2 7.3" "7.4 7.10"
expect 7.10 "7.9 7.10" "7.9 7.10"

# What is asked for is taken, and must look like a series.
[ "$(SERIES=7.2 "$SCRIPTS/build/series.sh")" = 7.2 ] || die "SERIES=7.2 was not taken"
said=$(SERIES=9.9 "$SCRIPTS/build/series.sh" 2>&1 >/dev/null)
[[ $said == *"not tested on Linux 9.9"* ]] || die "SERIES=9.9: $said"
for wrong in 7 7.3.4 seven "7.3 "; do
	! SERIES=$wrong "$SCRIPTS/build/series.sh" >/dev/null 2>&1 || die "SERIES='$wrong' was taken"
done
