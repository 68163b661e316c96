#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run hmm-tests and the selftest on kernels of the other series that this tree was
# tested on, besides the one that everything else runs on.
#
#   scripts/test/series.sh         the stock kernel, and the cases that depend most on
#                                  what rust/compat has for a series
#   scripts/test/series.sh all     stock and debug kernels, all cases
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

case ${1:-} in
'') few=1 ;;
all) few= ;;
*) die "series.sh $1" "It takes the word all, or nothing." ;;
esac

default=$("$SCRIPTS/build/series.sh")

# run SERIES SCRIPT ARGUMENT... : its results, with the series before each name.
run() {
	local output=$BUILD/log/series-$1-${2%.*}
	SERIES=$1 "$SCRIPTS/test/$2" "${@:3}" >"$output" || true
	sed -E '$d' "$output" | sed -E "s/^(passed  |failed  |skipped |known   )/&$1: /"
	add_totals "$output" || failed "$1: $2 ended without a result"
}

mkdir -p "$BUILD/log"
for series in "${KERNEL_SERIES[@]}"; do
	[ "$series" != "$default" ] || continue
	offered=$(in_root apt-cache pkgnames "linux-headers-$series")
	if [[ ! $offered =~ linux-headers-${series//./\\.}(\.[0-9]+)?"$KERNEL_LOCALVERSION" ]]; then
		skipped "$series: $KERNEL_SUITE has no kernel of this series any more"
		continue
	fi
	if [ -n "$few" ]; then
		run "$series" conformance.sh few
		run "$series" selftest.sh few
	else
		run "$series" conformance.sh stock debug
		run "$series" selftest.sh stock debug
		run "$series" kunit.py
	fi
done
totals
