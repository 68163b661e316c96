#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The peer, upstream's lib/test_hmm: for the stock kernel it is built from the
# kernel's source, in the cache, since Debian does not ship it; the debug
# kernel has it. Prints the path of test_hmm.ko.
#
#   scripts/build/test-hmm.sh [stock|debug]
. "$(dirname "$0")/../lib/lib.sh"

case ${1:-stock} in
stock) ;;
debug)
	printf '%s/lib/test_hmm.ko\n' "$("$SCRIPTS/build/debug-kernel.sh")"
	exit
	;;
*) die "there is no kernel '$1'" "Usage: scripts/build/test-hmm.sh [stock|debug]" ;;
esac

stock=$("$SCRIPTS/build/stock-kernel.sh")
folder=$CACHE/test_hmm-$(key_of "$(basename "$stock")" "$0")

make_folder() {
	cp "$stock"/linux/lib/test_hmm.c "$stock"/linux/lib/test_hmm_uapi.h "$1"
	printf 'obj-m := test_hmm.o\n' >"$1/Kbuild"
	in_root make -C "$stock/build" M="$1" modules
}

if ! is_made "$folder"; then
	hold_lock test_hmm
	make_once "$folder" run_step "Building upstream's test_hmm" "10 seconds" make_folder
fi
printf '%s\n' "$folder/test_hmm.ko"
