#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make the Debian system that packages.sh installs the packages in: the kernel that
# stock-kernel.sh uses with its headers, systemd, and what debian/control says that the
# packages depend on. Prints its path.
. "$(dirname "$0")/../lib/lib.sh"

# Without what only a build can fill in.
depends=$(awk '/^[A-Z]/ { inside = sub(/^Depends:/, "") } inside' "$SCRIPTS/package/debian/control" |
	tr -s '\n,' ',,' | sed -E 's/[ ,]*\$\{[^}]*\}//g; s/^[ ,]*//; s/[ ,]*$//; s/,[ ,]*/, /g')
stock=$("$SCRIPTS/build/stock-kernel.sh")
release=$(cat "$stock/build/include/config/kernel.release")
build_root=$("$SCRIPTS/build/root.sh")
root=$CACHE/guest-root-$(key_of "$DEBIAN_SUITE" "$KERNEL_SUITE" "$release" "$depends" "$0")

# All of it belongs to whoever runs this: root of a namespace, and root in the guest.
unpack_debian() {
	local dir=$1 ns=()
	[ "$(id -u)" -eq 0 ] || ns=(unshare --user --map-root-user)
	mmdebstrap --variant=minbase --include=systemd-sysv,udev,kmod,login,man-db,initramfs-tools,e2fsprogs --format=tar "$DEBIAN_SUITE" - |
		"${ns[@]}" tar -x --no-same-owner --exclude='./dev/*' -C "$dir"
	ln -sf /proc/self/fd "$dir/dev/fd"
	: >"$dir/etc/resolv.conf"
	cp "$build_root/etc/apt/sources.list.d/kernel.list" "$dir/etc/apt/sources.list.d"
	enter() { DMIRROR_ROOT=$dir "$SCRIPTS/build/in-root.sh" env DEBIAN_FRONTEND=noninteractive "$@"; }
	enter apt-get update
	enter apt-get satisfy -qy --no-install-recommends "$depends"
	# What the kernel needs of its suite comes from there, too.
	enter apt-get install -qy --no-install-recommends -t "$KERNEL_SUITE" "linux-image-$release" "linux-headers-$release"
	enter apt-get clean
}

if ! is_made "$root"; then
	"$SCRIPTS/build/host.sh"
	hold_lock guest-root
	make_once "$root" run_step "Making a Debian system to install the packages in" "3 to 5 minutes" unpack_debian
fi
printf '%s\n' "$root"
