#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Test patches for mm, or a kernel of the user's, with device memory: hmm-tests, the
# selftest, KUnit, and random programs on private and coherent devices. Prints a report
# for a mail, which is also in build/report.txt. Exits with 1 if anything failed.
#
#   scripts/test/report.sh PATCH...                 patches on the source of the stock kernel
#   TREE=/a/checkout scripts/test/report.sh RANGE   commits, as `git format-patch` takes them
#   KDIR=/its/build/folder scripts/test/report.sh   that kernel, as it is
#
# PATCHES and RANGE in the environment stand for arguments. Patches are built with the
# configuration of the debug kernel (KASAN, lockdep and more; 15 to 20 minutes). DURATION:
# seconds of random programs, for each of two seeds. PARTS: some of the parts of
# `test.sh --report --list`, or `all`, which is whatever a guest can run and takes hours.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/kdir.sh"
. "$SCRIPTS/lib/patches.sh"

# shellcheck disable=SC2086 # several files
[ $# -gt 0 ] || set -- ${PATCHES:-} ${RANGE:-}
usage="Usage: scripts/test/report.sh PATCH... | TREE=… scripts/test/report.sh RANGE | KDIR=… scripts/test/report.sh"
work=$BUILD/report
rm -rf -- "$work"
mkdir -p "$work"

patches=() about=()
for word; do
	if [ -e "$word" ]; then
		patches+=("$(realpath "$word")")
	elif [ -z "${TREE:-}" ]; then
		die "there is no patch $word" "If it is a range of commits, TREE names the checkout of a kernel." "$usage"
	elif ! said=$(git -C "$TREE" rev-parse -q --verify "${word##*..}^{commit}" 2>&1); then
		die "there is no patch $word, and no such commit in $TREE" ${said:+"git: $said"} "$usage"
	else
		# A folder for each range, as numbers begin anew.
		git -C "$TREE" format-patch -q -o "$work/range-$#-${#about[@]}" "$word" || die "git has no patches for $word in $TREE"
		mapfile -t found < <(find "$work/range-$#-${#about[@]}" -name '*.patch' | sort)
		[ "${#found[@]}" -gt 0 ] || die "there are no commits in $word in $TREE"
		patches+=("${found[@]}")
		about+=("$word of $(git -C "$TREE" describe --always "${word##*..}")")
	fi
done

if [ -n "${KDIR:-}" ]; then
	[ "${#patches[@]}" -eq 0 ] || die "KDIR together with patches" "Build the kernel with the patches, and name none here." "$usage"
	base="as built in KDIR"
	! commit=$(git -C "$(kdir_source)" describe --always --dirty 2>/dev/null) || base+=", commit $commit"
else
	[ "${#patches[@]}" -gt 0 ] || die "there is nothing to test" "$usage"
	stock=$("$SCRIPTS/build/stock-kernel.sh")
	base="Linux $(cat "$stock/build/include/config/kernel.release"), the source of Debian's package"
	unpack_patches "$work/diffs" "${patches[@]}"
	KDIR=$("$SCRIPTS/build/patched-kernel.sh" "${patches[@]}")
	export KDIR
fi

output=$BUILD/log/report.out status=0 private=
[ "${PARTS:-}" != all ] || private="; ksft_hmm.sh, fuzz and guest: 2 private ones"
mkdir -p "$BUILD/log"
# shellcheck disable=SC2086 # several words
"$SCRIPTS/test/test.sh" --report ${PARTS:-} >"$output" || status=$?
table=$(sed -n '/^part .*passed.*failed.*skipped$/,$p' "$output")
[ -n "$table" ] || {
	cat "$output"
	die "the tests did not run to their end, see above"
}
mapfile -t logs < <(find "$BUILD/log" -name '*-kdir*.log' -newer "$work")
complaints=$(for log in "${logs[@]}"; do "$SCRIPTS/guest/complaints.sh" "$log" || true; done |
	sed -n 's/^--- \([0-9]*\) line(s) with a complaint$/\1/p' | awk '{ sum += $1 } END { print sum + 0 }')

{
	echo "Tested with dmirror $(git -C "$TOP" describe --always --dirty 2>/dev/null || echo '(unknown commit)'), which emulates device memory:"
	echo
	echo "base:     $base${about[*]:+; ${about[*]}}"
	[ "${#patches[@]}" -eq 0 ] || sed -e '1s/^/patches:  /' -e '2,$s/^/          /' "$work/diffs/subjects"
	kdir_checks | sed -e '1s/^/kernel:   /' -e '2,$s/^/          /'
	echo "guest:    QEMU, $ARCH, ${CPUS:-2} CPUs; ${#logs[@]} boots, $complaints lines of complaint in the kernel's logs"
	echo "devices:  2 private ones, 2 coherent ones (kunit: its own$private)"
	echo
	printf '%s\n' "$table"
} | tee "$BUILD/report.txt"
exit "$status"
