#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build upstream's test suite of the ABI, tools/testing/selftests/mm/hmm-tests,
# from the kernel's source, unmodified and static, in the cache. Prints the
# folder that holds the program hmm-tests and the names of its cases, cases.
. "$(dirname "$0")/../lib/lib.sh"

stock=$("$SCRIPTS/build/stock-kernel.sh")
folder=$CACHE/hmm-tests-$(key_of "$(basename "$stock")" "$0" "$SCRIPTS/build/hmm_cases.py")

make_folder() {
	local dir=$1 linux=$stock/linux
	local mm=$linux/tools/testing/selftests/mm
	in_root make -C "$linux" O="$dir/headers" -j"$JOBS" headers
	in_root "${CROSS}gcc" -O2 -static -D_GNU_SOURCE -fmacro-prefix-map="$linux/=" \
		-I"$dir/headers/usr/include" -I"$linux/tools/include/uapi" \
		-I"$linux/tools/testing/selftests" -I"$linux" \
		-o "$dir/hmm-tests" "$mm/hmm-tests.c" "$mm/vm_util.c" "$mm/hugepage_settings.c" \
		-lpthread -lrt -lnuma
	# When it starts the program changes the pool of huge pages: not this
	# host's, whose /proc and /sys it does not see. Its list has no status 0.
	local emulator=
	if [ -n "$CROSS" ]; then
		emulator=/qemu
		in_root cp "/usr/bin/qemu-$GNU_ARCH" "$dir$emulator"
	fi
	# shellcheck disable=SC2086 # none, or one
	in_root chroot "$dir" $emulator /hmm-tests -l >"$dir/list" 2>&1 || true
	in_root "$SCRIPTS/build/hmm_cases.py" "$dir/list" >"$dir/cases"
}

if ! is_made "$folder"; then
	hold_lock hmm-tests
	make_once "$folder" run_step "Building upstream's hmm-tests" "30 seconds" make_folder
fi
printf '%s\n' "$folder"
