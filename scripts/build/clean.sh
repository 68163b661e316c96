#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Remove what was made in the checkout; with --cache, the cache too.
. "$(dirname "$0")/../lib/lib.sh"

rm -rf -- "$BUILD" "$TOP/rust-project.json" "$TOP/compile_commands.json" "$TOP/samples/target"
[ "${1:-}" = --cache ] || exit 0

# lib.sh has made sure that the folder is ours, wherever variables put it.
if grep -q " $CACHE/" /proc/self/mountinfo; then
	die "something is mounted in $CACHE" "Unmount it first; removing the cache would remove what is mounted."
fi
note "removing $CACHE ($(du -sh "$CACHE" | cut -f1))"
chmod -R u+rwX "$CACHE"
rm -rf -- "$CACHE"
