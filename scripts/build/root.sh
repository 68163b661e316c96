#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make the build root: a Debian system in a folder of the cache that holds the
# compilers, cargo and QEMU. Prints its path. Quick when it is there already.
. "$(dirname "$0")/../lib/lib.sh"

root=$CACHE/root-$(key_of "$DEBIAN_SUITE" "$KERNEL_SUITE" "${ROOT_PACKAGES[*]}" "$0")

# The whole root belongs to whoever runs this, so the same folder is used as
# root and as an ordinary user; see in-root.sh for how it is entered.
unpack_debian() {
	local dir=$1 packages ns=() mirror
	packages=$(IFS=,; printf '%s' "${ROOT_PACKAGES[*]}")
	[ "$(id -u)" -eq 0 ] || ns=(unshare --user --map-root-user)
	mmdebstrap --variant=minbase --include="$packages" --format=tar "$DEBIAN_SUITE" - |
		"${ns[@]}" tar -x --no-same-owner --exclude='./dev/*' -C "$dir"
	ln -sf /proc/self/fd "$dir/dev/fd"
	: >"$dir/etc/resolv.conf"
	# The kernel's suite comes from the same mirror as everything else.
	enter() { DMIRROR_ROOT=$dir "$SCRIPTS/build/in-root.sh" "$@"; }
	enter apt-get update
	mirror=$(enter apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages')
	mirror=${mirror%%$'\n'*}
	[ -n "$mirror" ] || die "apt names no mirror in the new root"
	printf 'deb %s %s main\n' "$mirror" "$KERNEL_SUITE" >"$dir/etc/apt/sources.list.d/kernel.list"
	enter apt-get update
}

if ! is_made "$root"; then
	"$SCRIPTS/build/host.sh"
	hold_lock root
	make_once "$root" run_step "Making the build root (Debian $DEBIAN_SUITE)" "1 to 3 minutes" unpack_debian
fi
printf '%s\n' "$root"
