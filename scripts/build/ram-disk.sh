#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A ram disk for the selftest to swap to: for the stock kernel its driver is
# built from the kernel's source, in the cache, since a guest has none of
# Debian's modules; the debug kernel has it built in. Prints the path of
# brd.ko.
. "$(dirname "$0")/../lib/lib.sh"

stock=$("$SCRIPTS/build/stock-kernel.sh")
folder=$CACHE/brd-$(key_of "$(basename "$stock")" "$0")

make_folder() {
	cp "$stock/linux/drivers/block/brd.c" "$1"
	printf 'obj-m := brd.o\n' >"$1/Kbuild"
	in_root make -C "$stock/build" M="$1" modules
}

if ! is_made "$folder"; then
	hold_lock brd
	make_once "$folder" run_step "Building the kernel's ram disk driver" "10 seconds" make_folder
fi
printf '%s\n' "$folder/brd.ko"
