#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The peer, upstream's lib/test_hmm: for the stock kernel it is built from the
# kernel's source, in the cache, since Debian does not ship it; the debug
# kernel has it. Prints the path of test_hmm.ko.
#
# A kernel of the user's own (kdir) may have it, too.
#
#   scripts/build/test-hmm.sh [stock|debug|kdir]
. "$(dirname "$0")/../lib/lib.sh"

case ${1:-stock} in
stock) ;;
debug)
	printf '%s/lib/test_hmm.ko\n' "$("$SCRIPTS/build/debug-kernel.sh")"
	exit
	;;
kdir)
	[ -e "$KDIR/lib/test_hmm.ko" ] || die "$KDIR has no lib/test_hmm.ko" "Set CONFIG_TEST_HMM=m and run make modules there."
	printf '%s/lib/test_hmm.ko\n' "$KDIR"
	exit
	;;
*) die "there is no kernel '$1'" "Usage: scripts/build/test-hmm.sh [stock|debug|kdir]" ;;
esac

kernel_module test_hmm "upstream's test_hmm" lib/test_hmm.c lib/test_hmm_uapi.h
