# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# A kernel of the user's own, in the build folder KDIR. Sourced after lib.sh.

# kdir_option NAME : the value of CONFIG_NAME, without quotes; nothing if it is not set.
kdir_option() { sed -n "s/^CONFIG_$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$KDIR/.config"; }

# needed_options : what the kernel must have been built with, without CONFIG_. Kbuild has the list.
needed_options() { sed -n '/^dmirror-needs :=/,/[^\\]$/ { s/^.*:=//; s/\\$//; p }' "$TOP/Kbuild" | xargs -n1; }

# kdir_source : the folder of the kernel's source: KDIR itself, unless it was built with O=.
kdir_source() { if [ -e "$KDIR/source" ]; then readlink -f "$KDIR/source"; else printf '%s\n' "$KDIR"; fi; }

# kdir_release : what `uname -r` prints on the kernel.
kdir_release() { cat "$KDIR/include/config/kernel.release"; }

# kdir_make ARGUMENT... : the kernel's own make, with the tools that preflight.sh finds.
# LLVM in the environment chooses among several versions of clang, as it does for the kernel.
kdir_make() {
	local tools prefix=(in_root) llvm=()
	tools=$("$SCRIPTS/build/preflight.sh" "$KDIR") || return
	[ "$tools" = root ] || prefix=(env -u MAKEFLAGS -u MAKELEVEL ${CROSS:+ARCH="$ARCH" CROSS_COMPILE="$CROSS"})
	[ -z "$(kdir_option CC_IS_CLANG)" ] || llvm=(LLVM="$(kdir_llvm "$tools")")
	"${prefix[@]}" make -C "$KDIR" "${llvm[@]}" -j"$JOBS" --no-print-directory "$@" >&2
}

# kdir_llvm host|root : which clang; the build root has one.
kdir_llvm() { if [ "$1" = host ]; then printf '%s\n' "${LLVM:-1}"; else echo 1; fi; }

# kdir_checks: says which of the kernel's own checks look on in tests, and which do not.
kdir_checks() {
	local option with=() without=()
	for option in KASAN PROVE_LOCKING DEBUG_VM DEBUG_KMEMLEAK UBSAN DEBUG_ATOMIC_SLEEP DEBUG_OBJECTS; do
		if [ "$(kdir_option "$option")" = y ]; then with+=("$option"); else without+=("$option"); fi
	done
	printf 'Linux %s; %s\n' "$(kdir_release)" "$(kdir_option RUSTC_VERSION_TEXT), $(kdir_option CC_VERSION_TEXT)"
	printf 'checks that look on:       %s\n' "${with[*]:-none}"
	printf 'checks that are not there: %s\n' "${without[*]:-none}"
}
