#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the debug kernel with patches of the user's. Prints the path of its build folder,
# which is a KDIR.
#
#   scripts/build/patched-kernel.sh [--check] PATCH...
#
# A PATCH is a file with one patch or several, as `git format-patch` and `b4 am` write
# them: mails, or nothing but a diff. --check sees only whether they apply.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/patches.sh"

check=
if [ "${1:-}" = --check ]; then
	check=1
	shift
fi
[ $# -gt 0 ] || die "no patch was given" "Usage: scripts/build/patched-kernel.sh [--check] PATCH..."

work=$BUILD/tmp/patches
unpack_patches "$work" "$@"
patches=("$work"/*.patch)

stock=$("$SCRIPTS/build/stock-kernel.sh")
applies() { GIT_CEILING_DIRECTORIES=$1 git -C "$1/linux" apply "${@:2}" "${patches[@]}"; }
applies "$stock" --check || die "the patches do not apply to Linux $(cat "$stock/build/include/config/kernel.release")" \
	"For another base, build that kernel, and name its build folder by KDIR."
[ -z "$check" ] || exit 0

# The source with the patches, all of whose other files are links: git makes new files of
# those that it changes.
source=$CACHE/source-$(key_of "$(basename "$stock")" "${patches[@]}" "$0")
make_source() {
	cp -al "$stock/linux" "$1/linux"
	applies "$1"
}
if ! is_made "$source"; then
	hold_lock source
	make_once "$source" make_source
fi

# All else is as for the debug kernel.
KERNEL_SOURCE=$source "$SCRIPTS/build/debug-kernel.sh"
