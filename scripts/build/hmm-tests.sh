#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build upstream's test suite of the ABI, tools/testing/selftests/mm/hmm-tests,
# from the kernel's source, unmodified and static, in the cache. Prints the
# folder that holds the program hmm-tests and the names of its cases, cases.
#
# With KDIR, that kernel's source has the suite, and what is made is in build/: whoever
# changes mm may have changed it, too.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/kdir.sh"

if [ -n "${KDIR:-}" ]; then
	linux=$(kdir_source) headers=$KDIR/usr/include
	[ -e "$linux/tools/testing/selftests/mm/hmm-tests.c" ] || die "$linux has no hmm-tests.c: no source of the kernel" \
		"KDIR is the build folder of a kernel whose source is still there."
	mapfile -t sources < <(find "$linux"/tools/testing/selftests/{mm/{hmm-tests,vm_util,hugepage_settings}.[ch],kselftest*.h} \
		"$linux/lib/test_hmm_uapi.h" "$linux/mm/gup_test.h" 2>/dev/null)
	folder=$BUILD/hmm-tests-$(key_of "$KDIR" "$(kdir_release)" "$0" "$SCRIPTS/build/hmm_cases.py" "${sources[@]}")
else
	stock=$("$SCRIPTS/build/stock-kernel.sh")
	linux=$stock/linux headers=
	folder=$CACHE/hmm-tests-$(key_of "$(basename "$stock")" "$0" "$SCRIPTS/build/hmm_cases.py")
fi

make_folder() {
	local dir=$1 mm=$linux/tools/testing/selftests/mm shared
	if [ -n "$headers" ]; then
		# Into the build folder, as for kselftest: a source that was built in takes no O=.
		kdir_make headers
	else
		in_root make -C "$linux" O="$dir/headers" -j"$JOBS" headers
		headers=$dir/headers/usr/include
	fi
	# What is there differs from series to series.
	mapfile -t shared < <(find "$mm/vm_util.c" "$mm/hugepage_settings.c" 2>/dev/null)
	in_root "${CROSS}gcc" -O2 -static -D_GNU_SOURCE -fmacro-prefix-map="$linux/=" \
		-I"$headers" -I"$linux/tools/include/uapi" \
		-I"$linux/tools/testing/selftests" -I"$linux" \
		-o "$dir/hmm-tests" "$mm/hmm-tests.c" "${shared[@]}" \
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
