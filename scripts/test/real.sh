#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Real programs with their memory on the device: they print what they print
# without it.
#
#   scripts/test/real.sh          all programs in all ways, on both kernels
#   scripts/test/real.sh short    some, on the stock kernel
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

# real KERNEL CHOICE... : a guest.
real() {
	local kernel=$1
	shift
	KERNEL=$kernel MODULE=dmirror NAME=real SYSTEM=real TIMEOUT=3000 CMD="real $*" \
		FILES="$SCRIPTS/guest/inside/real $SCRIPTS/guest/inside/programs" \
		guest_cases "$kernel: " in_root bash -c "$SCRIPTS/guest/inside/real --list $*"
}

case ${1:-} in
'')
	real stock
	real debug
	;;
short) real stock -p "'sqlite python redis'" -m "'again xe'" ;;
*) die "real.sh $1" "What runs is named by nothing, or by short." ;;
esac
totals
