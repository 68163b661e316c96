#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build dmirror.ko, and minimal.ko and ivshmem.ko in samples/. Prints the folder
# that they are in, build/stock, build/debug, build/patched or build/kdir, with -SERIES
# behind it if SERIES is set.
#
#   scripts/build/modules.sh [stock|debug|patched|kdir] [ARGUMENT...]
#
# For one of our kernels they are built in the build root. kdir is the kernel of
# KDIR=/a/kernel/build in the environment, and the default if that is set; its tools are
# the host's or the build root's (see preflight.sh). Arguments after the kernel go to
# make (default: modules). OUT names another folder for what is made.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/kdir.sh"

llvm=()
kernel=${1:-${KERNEL:-stock}}
[ $# -eq 0 ] || shift
case $kernel in
stock) kdir=$("$SCRIPTS/build/stock-kernel.sh")/build ;;
debug) kdir=$("$SCRIPTS/build/debug-kernel.sh") llvm=(LLVM=1) ;;
patched) kdir=$("$SCRIPTS/build/debug-kernel.sh" --patched) llvm=(LLVM=1) ;;
kdir)
	kdir=${KDIR:-}
	[ -n "$kdir" ] || die "KDIR is not set" "KDIR is the build folder of a kernel."
	;;
*) die "there is no kernel '$kernel'" "Usage: scripts/build/modules.sh [stock|debug|patched|kdir] [ARGUMENT...]" ;;
esac
out=${OUT:-$BUILD/$(built_for "$kernel")}
mkdir -p "$out"

# One build at a time in a folder.
exec {lock}>"$out/.lock"
flock "$lock"
# What was made for another kernel may look up to date.
if [ "$kernel" = kdir ] && [ "$(cat "$out/.kdir" 2>/dev/null)" != "$kdir" ]; then
	find "$out" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
	printf '%s\n' "$kdir" >"$out/.kdir"
fi
# Nobody has to ask for what editors read; make editors makes it anew.
editors=
[ "$(built_for "$kernel")$#" != stock0 ] || [ -n "${OUT:-}" ] || [ -e "$TOP/compile_commands.json" ] || editors=1
[ $# -gt 0 ] || set -- modules
set -- M="$TOP" MO="$out" "$@"
if [ "$kernel" = kdir ]; then
	kdir_make "$@"
else
	in_root make -C "$kdir" "${llvm[@]}" -j"$JOBS" --no-print-directory "$@" >&2
fi
if [ -n "$editors" ]; then
	flock -u "$lock"
	echo '[]' >"$TOP/compile_commands.json"
	"$SCRIPTS/build/editors.py" >/dev/null 2>&1 || note "there is nothing for editors: make editors says why"
fi
printf '%s\n' "$out"
