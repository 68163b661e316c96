#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run ivshmem-test: in a guest, with the driver samples/ivshmem, and on this
# host, where it looks at the memory of the device and unplugs it.
#
#   scripts/test/ivshmem.sh [stock|debug|kdir]...      default: stock, then debug; or KDIR
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

# A static program, for both sides.
program=$("$SCRIPTS/build/samples.sh")/ivshmem-test
# shellcheck disable=SC2046 # words
[ $# -gt 0 ] || set -- $(default_kernels)
for kernel; do
	if [ ! -e "$("$SCRIPTS/build/modules.sh" "$kernel")/samples/ivshmem/ivshmem.ko" ]; then
		skipped "$kernel: this series has no driver for ivshmem (Kbuild says why)"
		continue
	fi
	# One case fills the device, and takes as long as that is large.
	KERNEL=$kernel MODULE=none NAME=ivshmem IVSHMEM=16M CMD='load-module ivshmem && ivshmem-test' \
		HOST_CMD="$(printf '%q host' "$program")" \
		guest_cases "$kernel: " run_program "$program" --list
done
totals
