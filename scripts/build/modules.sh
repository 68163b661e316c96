#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build dmirror.ko, and minimal.ko and ivshmem.ko in samples/. Prints the folder
# that they are in, build/stock, build/debug, build/patched or build/kdir, with -SERIES
# behind it if SERIES is set.
#
#   scripts/build/modules.sh [stock|debug|patched] [ARGUMENT...]
#
# For one of our kernels they are built in the build root. KDIR=/a/kernel/build
# in the environment, and no argument, builds for that kernel with the tools of
# this host. Arguments after the kernel go to make (default: modules). OUT
# names another folder for what is made.
. "$(dirname "$0")/../lib/lib.sh"

place=() prefix=(in_root)
if [ $# -eq 0 ] && [ -n "${KDIR:-}" ]; then
	"$SCRIPTS/build/preflight.sh" "$KDIR"
	kernel=kdir kdir=$(cd "$KDIR" && pwd)
	prefix=(env -u MAKEFLAGS -u MAKELEVEL)
	! grep -q '^CONFIG_CC_IS_CLANG=y' "$kdir/.config" || place+=(LLVM=1)
else
	kernel=${1:-${KERNEL:-stock}}
	[ $# -eq 0 ] || shift
	case $kernel in
	stock) kdir=$("$SCRIPTS/build/stock-kernel.sh")/build ;;
	debug) kdir=$("$SCRIPTS/build/debug-kernel.sh") place+=(LLVM=1) ;;
	patched) kdir=$("$SCRIPTS/build/debug-kernel.sh" --patched) place+=(LLVM=1) ;;
	*) die "there is no kernel '$kernel'" "Usage: scripts/build/modules.sh [stock|debug|patched] [ARGUMENT...]" ;;
	esac
fi
out=${OUT:-$BUILD/$(built_for "$kernel")}
mkdir -p "$out"

# One build at a time in a folder.
exec {lock}>"$out/.lock"
flock "$lock"
[ $# -gt 0 ] || set -- modules
"${prefix[@]}" make -C "$kdir" M="$TOP" MO="$out" "${place[@]}" -j"$JOBS" --no-print-directory "$@" >&2
printf '%s\n' "$out"
