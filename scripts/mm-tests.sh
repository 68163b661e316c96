#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the kernel's own tests of mm that real.sh runs, from the kernel's
# source, unmodified and static, in the cache. Prints the folder that holds them.
. "$(dirname "$0")/lib.sh"

# Those whose results are in TAP, and that need neither a network nor root of a
# file system.
tests=(
	cow droppable guard-regions madv_populate map_fixed_noreplace merge mkdirty mlock2-tests
	mremap_dontunmap mremap_test mseal_test pagemap_ioctl prctl_thp_disable process_madv rmap
	soft-dirty uffd-unit-tests
)

stock=$("$SCRIPTS/stock-kernel.sh")
folder=$CACHE/mm-tests-$(key_of "$(basename "$stock")" "${tests[*]}" "$0")

make_folder() {
	local dir=$1 linux=$stock/linux test more
	local mm=$linux/tools/testing/selftests/mm
	in_root make -C "$linux" O="$dir/headers" -j"$JOBS" headers
	# Made by its makefile: that there is no liburing.
	: >"$dir/headers/local_config.h_gen"
	for test in "${tests[@]}"; do
		more=()
		case $test in
		uffd-unit-tests) more=("$mm/uffd-common.c") ;;
		esac
		in_root gcc -O2 -static -D_GNU_SOURCE= -fmacro-prefix-map="$linux/=" \
			-I"$dir/headers/usr/include" -I"$linux/tools/include/uapi" \
			-I"$linux/tools/testing/selftests" -I"$linux" -I"$dir/headers" \
			-o "$dir/$test" "$mm/$test.c" "$mm/vm_util.c" "$mm/hugepage_settings.c" "${more[@]}" \
			-lpthread -lrt -lnuma -lm
	done
	rm -rf "$dir/headers"
}

if ! is_made "$folder"; then
	hold_lock mm-tests
	make_once "$folder" run_step "Building the kernel's tests of mm" "1 minute" make_folder
fi
printf '%s\n' "$folder"
