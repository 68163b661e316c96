#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make the root that packages are built in: a Debian system in a folder of the cache with
# what debian/control says a build depends on, and lintian. Prints its path.
. "$(dirname "$0")/../lib/lib.sh"

control=$SCRIPTS/package/debian/control
root=$CACHE/package-root-$(key_of "$DEBIAN_SUITE" "$(sed '/^$/,$d' "$control")" "$0")

# Not a copy of the build root: what is missing in debian/control shall be missing here.
unpack_debian() {
	local dir=$1 ns=()
	[ "$(id -u)" -eq 0 ] || ns=(unshare --user --map-root-user)
	mmdebstrap --variant=buildd --include=lintian --format=tar "$DEBIAN_SUITE" - |
		"${ns[@]}" tar -x --no-same-owner --exclude='./dev/*' -C "$dir"
	ln -sf /proc/self/fd "$dir/dev/fd"
	: >"$dir/etc/resolv.conf"
	install -D -m644 "$control" "$dir/tmp/source/debian/control"
	enter() { DMIRROR_ROOT=$dir "$SCRIPTS/build/in-root.sh" "$@"; }
	enter apt-get update
	enter env DEBIAN_FRONTEND=noninteractive apt-get build-dep -qy --no-install-recommends /tmp/source
	rm -r "$dir/tmp/source"
}

if ! is_made "$root"; then
	"$SCRIPTS/build/host.sh"
	hold_lock package-root
	make_once "$root" run_step "Making the root for packages (Debian $DEBIAN_SUITE)" "2 to 4 minutes" unpack_debian
fi
printf '%s\n' "$root"
