#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Print the kernel series to use: SERIES if it is set; otherwise the newest of those
# that this tree was tested on and the package index offers. If it offers newer ones
# only, that is said, and the newest is tried.
#
#   scripts/build/series.sh [--anew]
#
# --anew: get the index, and choose again.
. "$(dirname "$0")/../lib/lib.sh"

if [ -n "${SERIES:-}" ]; then
	[[ $SERIES =~ ^[0-9]+\.[0-9]+$ ]] || die "SERIES=$SERIES" "SERIES is a kernel series such as ${KERNEL_SERIES[-1]}."
	[[ " ${KERNEL_SERIES[*]} " == *" $SERIES "* ]] ||
		note "this tree was not tested on Linux $SERIES, only on: ${KERNEL_SERIES[*]}"
	printf '%s\n' "$SERIES"
	exit
fi

# The index is asked when a kernel is made of what it offers, and not each time.
root=$("$SCRIPTS/build/root.sh")
answer=$CACHE/series-$(key_of "$(basename "$root")" "$KERNEL_LOCALVERSION" "${KERNEL_SERIES[*]}")
if [ "${1:-}" = --anew ]; then
	in_root apt-get update >&2
	rm -f "$answer"
fi
if [ ! -s "$answer" ]; then
	names=$(in_root apt-cache pkgnames linux-headers-)
	mapfile -t offered < <(sed -nE "s/^linux-headers-([0-9]+\.[0-9]+)(\.[0-9]+)?${KERNEL_LOCALVERSION//+/\\+}\$/\1/p" <<<"$names" | sort -uV)
	[ "${#offered[@]}" -gt 0 ] || die "the package index has no kernel" \
		"Looked for linux-headers-*$KERNEL_LOCALVERSION in $KERNEL_SUITE."
	series=$(choose_series "${offered[@]}")
	[ "$(printf '%s\n' "$series" "${KERNEL_SERIES[0]}" | sort -V | head -n1)" = "${KERNEL_SERIES[0]}" ] ||
		die "$KERNEL_SUITE has only older series than this tree supports: ${offered[*]}" "Supported are: ${KERNEL_SERIES[*]}"
	printf '%s\n' "$series" >"$answer.$$"
	mv "$answer.$$" "$answer"
fi
series=$(cat "$answer")
[[ " ${KERNEL_SERIES[*]} " == *" $series "* ]] ||
	note "$KERNEL_SUITE offers none of the series that this tree was tested on (${KERNEL_SERIES[*]}): trying Linux $series; SERIES chooses another"
printf '%s\n' "$series"
