#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make the build root for another machine than this one: a copy of the one of root.sh,
# with a cross compiler, and libraries and QEMU of that machine. Prints its path.
. "$(dirname "$0")/../lib/lib.sh"

[ -n "$CROSS" ] || die "ARCH=$ARCH is this machine's"
base=$("$SCRIPTS/build/root.sh")
root=$CACHE/root-$ARCH-$(key_of "$(basename "$base")" "${CROSS_PACKAGES[*]}" "$0")

# Nothing of the other machine's runs here, so what is for the guest alone is unpacked
# beside, in /guest. The mark of a complete root is not copied.
add_machine() {
	local dir=$1
	cp -a --reflink=auto "$base"/* "$dir"
	enter() { DMIRROR_ROOT=$dir "$SCRIPTS/build/in-root.sh" "$@"; }
	enter dpkg --add-architecture "$DEBIAN_ARCH"
	enter apt-get update
	enter env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${CROSS_PACKAGES[@]}"
	mkdir "$dir/guest"
	enter env -C /guest apt-get download -q -o APT::Sandbox::User=root "busybox-static:$DEBIAN_ARCH"
	enter sh -c 'dpkg-deb -x /guest/busybox-static_*.deb /guest && rm /guest/*.deb'
}

if ! is_made "$root"; then
	hold_lock "root-$ARCH"
	make_once "$root" run_step "Making the build root for $ARCH" "2 minutes" add_machine
fi
printf '%s\n' "$root"
