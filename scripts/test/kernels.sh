#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run hmm-tests and the selftest on the kernels that this tree supports besides the one
# that everything else runs on: of another series, for another machine, with pages of
# another size.
#
#   scripts/test/kernels.sh          stock kernels: each other series, and arm64 with pages
#                                    of 16 KiB; the cases that depend most on the kernel
#   scripts/test/kernels.sh all      each series on each machine with each size of pages,
#                                    stock and debug, all cases
#   scripts/test/kernels.sh SETTING=VALUE...
#                                    all cases on one, such as ARCH=arm64 PAGES=64K
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

usage="Usage: scripts/test/kernels.sh [all | SETTING=VALUE...]"
default=$("$SCRIPTS/build/series.sh")
mkdir -p "$BUILD/log"

# run KERNEL SCRIPT ARGUMENT... : its results, with the kernel before each name. KERNEL is
# settings of lib/config.sh, with spaces between.
run() {
	local kernel=$1 script=$2 output
	output=$BUILD/log/kernels-${kernel//[ =]/-}-${script%.*}
	# shellcheck disable=SC2086 # several settings
	env $kernel "$SCRIPTS/test/$script" "${@:3}" >"$output" || true
	sed -E '$d' "$output" | sed -E "s/^(passed  |failed  |skipped |known   )/&$kernel: /"
	add_totals "$output" || failed "$kernel: $script ended without a result"
}

# is_offered KERNEL : whether the index has a stock kernel for it; otherwise that is a skip. That
# the index cannot be asked is a failure.
is_offered() {
	local answer
	# shellcheck disable=SC2086,SC2016 # several settings; expanded by the inner shell
	answer=$(env $1 bash -c '
		. "$1/lib/lib.sh"
		series=${SERIES:-$("$SCRIPTS/build/series.sh")}
		names=$(in_root apt-cache pkgnames "linux-headers-$series")
		sed -nE "/^linux-headers-${series//./\\.}(\.[0-9]+)?${KERNEL_LOCALVERSION//+/\\+}\$/p" <<<"$names"
	' is_offered "$SCRIPTS") || { failed "$1: the package index cannot be asked" && return 1; }
	[ -n "$answer" ] && return
	skipped "$1: $KERNEL_SUITE has no such kernel"
	return 1
}

# few KERNEL, all KERNEL : what runs on it.
few() {
	local cases=few
	is_offered "$1" || return 0
	[[ $1 != *PAGES=* ]] || cases=pages
	run "$1" conformance.sh few
	run "$1" selftest.sh "$cases"
}
all() {
	local places=(stock debug)
	is_offered "$1" || return 0
	# Debian has no such kernel.
	[[ $1 != *PAGES=64K* ]] || places=(debug)
	run "$1" conformance.sh "${places[@]}"
	run "$1" selftest.sh "${places[@]}"
	run "$1" kunit.py
	run "$1" guest-checks.sh "${places[@]}"
	run "$1" ivshmem.sh "${places[0]}"
}

case ${1:-} in
'' | all)
	[ $# -le 1 ] || die "too many arguments" "$usage"
	machines=("")
	[ $# -eq 0 ] || machines=("" ARCH=arm64 "ARCH=arm64 PAGES=16K" "ARCH=arm64 PAGES=64K")
	kernels=()
	for series in "${KERNEL_SERIES[@]}"; do
		if [ "$series" = "$default" ]; then series=; else series=SERIES=$series; fi
		for machine in "${machines[@]}"; do
			[ "$machine" != "ARCH=$HOST_ARCH" ] || continue # it is the machine without a name
			kernel=$series${series:+${machine:+ }}$machine
			[ -z "$kernel" ] || kernels+=("$kernel")
		done
	done
	[ $# -gt 0 ] || kernels+=("ARCH=arm64 PAGES=16K")
	for kernel in "${kernels[@]}"; do "${1:-few}" "$kernel"; done
	;;
*=*) all "$*" ;;
*) die "kernels.sh $1" "$usage" ;;
esac
totals
