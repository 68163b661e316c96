#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make the "Rust-ready" folder of the newest stock kernel of the series that
# series.sh prints (see rust-ready-kernel.sh for what is in it). Prints its path.
. "$(dirname "$0")/../lib/lib.sh"

root=$("$SCRIPTS/build/root.sh")
# choose [--anew] : sets series and folder.
choose() {
	series=$("$SCRIPTS/build/series.sh" "$@")
	folder=$CACHE/stock-$(key_of "$(basename "$root")" "$series" "$KERNEL_LOCALVERSION" "$SCRIPTS/build/rust-ready-kernel.sh")
}
choose
# The archive may have dropped that series since it was asked.
is_made "$folder" || choose --anew

newest_release() {
	local pattern="^linux-headers-${series//./\\.}(\.[0-9]+)?${KERNEL_LOCALVERSION//+/\\+}\$" name
	name=$(in_root apt-cache search --names-only "$pattern" | cut -d' ' -f1 | sort -V | tail -n1)
	[ -n "$name" ] || die "the package index has no kernel of series $series" \
		"Looked for linux-headers-$series.*$KERNEL_LOCALVERSION in $KERNEL_SUITE." \
		"It has: $(in_root apt-cache pkgnames linux-headers- | grep -F -e "$KERNEL_LOCALVERSION" | sort -V | paste -sd' ')"
	printf '%s\n' "${name#linux-headers-}"
}

make_folder() {
	local release
	release=$(newest_release)
	in_root "$SCRIPTS/build/rust-ready-kernel.sh" --release "$release" "$1"
}

if ! is_made "$folder"; then
	hold_lock stock
	make_once "$folder" run_step "Preparing the stock kernel (Linux $series of $KERNEL_SUITE)" "2 to 4 minutes" make_folder
fi
printf '%s\n' "$folder"
