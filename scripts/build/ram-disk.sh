#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A ram disk for the selftest to swap to: for the stock kernel its driver is
# built from the kernel's source, in the cache, since a guest has none of
# Debian's modules; the debug kernel has it built in. Prints the path of
# brd.ko.
. "$(dirname "$0")/../lib/lib.sh"

kernel_module brd "the kernel's ram disk driver" drivers/block/brd.c
