#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Print the kernel series to use: SERIES if it is set; otherwise the newest of those
# that this tree was tested on and the package index offers. If it offers newer ones
# only, that is said, and the newest is tried.
. "$(dirname "$0")/../lib/lib.sh"

if [ -n "${SERIES:-}" ]; then
	[[ $SERIES =~ ^[0-9]+\.[0-9]+$ ]] || die "SERIES=$SERIES" "SERIES is a kernel series such as ${KERNEL_SERIES[-1]}."
	[[ " ${KERNEL_SERIES[*]} " == *" $SERIES "* ]] ||
		note "this tree was not tested on Linux $SERIES, only on: ${KERNEL_SERIES[*]}"
	printf '%s\n' "$SERIES"
	exit
fi

# The index is asked once for a build root: kernels are made of what it offered.
root=$("$SCRIPTS/build/root.sh")
answer=$CACHE/series-$(key_of "$(basename "$root")" "$KERNEL_LOCALVERSION" "${KERNEL_SERIES[*]}")
if [ ! -s "$answer" ]; then
	mapfile -t offered < <(in_root apt-cache pkgnames linux-headers- |
		sed -n "s/^linux-headers-\([0-9]*\.[0-9]*\)[0-9.]*${KERNEL_LOCALVERSION}\$/\1/p" | sort -uV)
	[ "${#offered[@]}" -gt 0 ] || die "the package index has no kernel" \
		"Looked for linux-headers-*$KERNEL_LOCALVERSION in $KERNEL_SUITE."
	series=$(choose_series "${offered[@]}")
	[ "$(printf '%s\n' "$series" "${KERNEL_SERIES[0]}" | sort -V | head -n1)" = "${KERNEL_SERIES[0]}" ] ||
		die "$KERNEL_SUITE has only older series than this tree supports: ${offered[*]}" "Supported are: ${KERNEL_SERIES[*]}"
	if [[ " ${KERNEL_SERIES[*]} " != *" $series "* ]]; then
		note "$KERNEL_SUITE offers none of the series that this tree was tested on (${KERNEL_SERIES[*]}), but ${offered[*]}"
		note "trying Linux $series; SERIES chooses another"
	fi
	printf '%s\n' "$series" >"$answer.$$"
	mv "$answer.$$" "$answer"
fi
cat "$answer"
