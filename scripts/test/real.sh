#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Real programs with their memory on the device: they print what they print
# without it. So do the kernel's own tests of mm, but for what guest/inside/mm-tests.known
# names.
#
#   scripts/test/real.sh              all programs in all ways, and the tests of mm, on both kernels
#   scripts/test/real.sh short        some programs, on the stock kernel
#   scripts/test/real.sh mm [KERNEL]  the tests of mm
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

mine=${KDIR:+kdir}

# real KERNEL CHOICE... : a guest.
real() {
	local kernel=$1
	shift
	KERNEL=$kernel MODULE=dmirror NAME=real SYSTEM=real TIMEOUT=3000 CMD="real $*" \
		FILES="$SCRIPTS/guest/inside/real $SCRIPTS/guest/inside/programs" \
		guest_cases "$kernel: " in_root bash -c "$SCRIPTS/guest/inside/real --list $*"
}

# mm KERNEL : a guest with the tests of mm. The debug kernel takes five times as long.
mm() {
	local choice=() tests files
	[ "$1" = stock ] || choice=(--quick)
	tests=$("$SCRIPTS/build/mm-tests.sh")
	files=("$SCRIPTS"/guest/inside/mm-tests{,.known} "$SCRIPTS/guest/inside/mm-compare.awk" "$tests")
	# The ram disk is for swap. Some write by /proc/self/mem what they may not write.
	KERNEL=$1 MODULE=dmirror NAME=real-mm TIMEOUT=7200 CMD="mm-tests ${choice[*]}" FILES="${files[*]}" \
		APPEND='brd.rd_nr=1 brd.rd_size=262144 proc_mem.force_override=always' \
		guest_cases "$1: " in_root "$SCRIPTS/guest/inside/mm-tests" --list "${choice[@]}"
}

case ${1:-} in
'')
	for kernel in $(default_kernels); do
		real "$kernel"
		mm "$kernel"
	done
	;;
mm)
	for kernel in ${2:-$(default_kernels)}; do mm "$kernel"; done
	;;
short) real "${mine:-stock}" -p "'sqlite python redis'" -m xe ;;
*) die "real.sh $1" "What runs is named by nothing, by short, or by mm." ;;
esac
totals
