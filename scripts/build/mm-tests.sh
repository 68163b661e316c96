#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the kernel's own tests of mm that real.sh runs, from the kernel's
# source, unmodified and static, in the cache. Prints a folder called mm that
# holds nothing but them.
. "$(dirname "$0")/../lib/lib.sh"

# What says its results as TAP, needs nothing from outside, and has private memory.
# split_huge_page_test is not among them: nearly all of it is about files on a file
# system with large folios, and the rest counts huge pages in smaps, of which there
# are as many as the device leaves. guest/inside/mm-tests says how they run.
tests=(
	cow droppable guard-regions gup_longterm hugetlb-madvise ksm_functional_tests madv_populate
	map_populate mdwe_test merge mkdirty mlock2-tests mrelease_test mremap_dontunmap
	mremap_test mseal_test pagemap_ioctl prctl_thp_disable process_madv rmap soft-dirty
	uffd-unit-tests uffd-wp-mremap
)

stock=$("$SCRIPTS/build/stock-kernel.sh")
folder=$CACHE/mm-tests-$(key_of "$(basename "$stock")" "$0")

# The names of files in the programs are relative to where they run, since they
# make files beside their own source.
make_folder() {
	local dir=$1 linux=$stock/linux test more
	local mm=$linux/tools/testing/selftests/mm
	in_root make -C "$linux" O="$dir/headers" -j"$JOBS" headers
	# The makefile of the tests finds out what libraries there are: none.
	: >"$dir/headers/local_config.h_gen"
	mkdir "$dir/mm"
	for test in "${tests[@]}"; do
		more=()
		[[ $test != uffd-* ]] || more=("$mm/uffd-common.c")
		in_root "${CROSS}gcc" -O2 -static -D_GNU_SOURCE= -fmacro-prefix-map="$mm/=" \
			-I"$dir/headers/usr/include" -I"$linux/tools/include/uapi" \
			-I"$linux/tools/testing/selftests" -I"$linux" -I"$dir/headers" \
			-o "$dir/mm/$test" "$mm/$test.c" "$mm/vm_util.c" "$mm/hugepage_settings.c" "${more[@]}" \
			-lpthread -lrt -lnuma -lm
	done
	rm -rf "$dir/headers"
}

if ! is_made "$folder"; then
	hold_lock mm-tests
	make_once "$folder" run_step "Building the kernel's tests of mm" "1 to 2 minutes" make_folder
fi
printf '%s\n' "$folder/mm"
