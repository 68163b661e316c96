#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make a Debian system with real programs for a guest: an archive that is added
# to the guest's initramfs, where it is the folder /debian. Prints its path.
. "$(dirname "$0")/../lib/lib.sh"

folder=$CACHE/real-$(key_of "$DEBIAN_SUITE" "${REAL_PACKAGES[*]}" "$0")

# The packages are unpacked and not set up: no program here needs more. Three
# libraries that draw in 3D, and that none of them loads, are most of it.
make_folder() {
	local packages link ns=()
	packages=$(IFS=,; printf '%s' "${REAL_PACKAGES[*]}")
	[ "$(id -u)" -eq 0 ] || ns=(unshare --user --map-root-user)
	mkdir -p "$1/root/debian"
	mmdebstrap --variant=extract --include="$packages" --format=tar "$DEBIAN_SUITE" - |
		"${ns[@]}" tar -x --no-same-owner -C "$1/root/debian" --exclude='./dev/*' \
			--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
			--exclude='./usr/share/zoneinfo/*' --exclude='./usr/share/info/*' --exclude='./usr/include/*' \
			--exclude='./usr/lib/*/libLLVM*' --exclude='./usr/lib/*/libgallium*' --exclude='./usr/lib/*/libz3*' \
			--exclude='./var/cache/*' --exclude='./var/lib/apt/*' --exclude='./var/lib/dpkg/*'
	# What the setting up would have done.
	for link in bin lib lib64 sbin; do ln -s "usr/$link" "$1/root/debian/$link"; done
	# shellcheck disable=SC2016 # expanded by the inner shell
	in_root bash -euc 'cd "$1/root"; find . | cpio --quiet -o -H newc -R 0:0 >"$1/real.cpio"' pack "$1"
	"${ns[@]}" rm -rf "$1/root"
}

if ! is_made "$folder"; then
	"$SCRIPTS/build/host.sh"
	hold_lock real
	make_once "$folder" run_step "Getting real programs (Debian $DEBIAN_SUITE)" "1 to 2 minutes" make_folder
fi
printf '%s\n' "$folder/real.cpio"
