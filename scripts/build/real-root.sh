#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make a Debian system for a guest: an archive that is added to the guest's initramfs,
# where it is the folder /debian. Prints its path.
#
#   scripts/build/real-root.sh real|kselftest
#
# real: with real programs. kselftest: with what the kernel's selftests run on.
. "$(dirname "$0")/../lib/lib.sh"

system=${1:-}
case $system in
real) packages=("${REAL_PACKAGES[@]}") ;;
kselftest) packages=("${KSELFTEST_PACKAGES[@]}") ;;
*) die "there is no system '$system'" "Usage: scripts/build/real-root.sh real|kselftest" ;;
esac
folder=$CACHE/$system-$(key_of "$DEBIAN_SUITE" "${packages[*]}" "$0")

# The packages are unpacked and not set up: no program here needs more. Three
# libraries that draw in 3D, and that none of them loads, are most of it.
make_folder() {
	local list link ns=()
	list=$(IFS=,; printf '%s' "${packages[*]}")
	[ "$(id -u)" -eq 0 ] || ns=(unshare --user --map-root-user)
	mkdir -p "$1/root/debian"
	mmdebstrap --variant=extract --include="$list" --format=tar "$DEBIAN_SUITE" - |
		"${ns[@]}" tar -x --no-same-owner -C "$1/root/debian" --exclude='./dev/*' \
			--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
			--exclude='./usr/share/zoneinfo/*' --exclude='./usr/share/info/*' --exclude='./usr/include/*' \
			--exclude='./usr/lib/*/libLLVM*' --exclude='./usr/lib/*/libgallium*' --exclude='./usr/lib/*/libz3*' \
			--exclude='./var/cache/*' --exclude='./var/lib/apt/*' --exclude='./var/lib/dpkg/*'
	# What the setting up would have done.
	for link in bin lib lib64 sbin; do ln -s "usr/$link" "$1/root/debian/$link"; done
	for link in awk:mawk which:which.debianutils; do
		[ ! -e "$1/root/debian/usr/bin/${link#*:}" ] || ln -s "${link#*:}" "$1/root/debian/usr/bin/${link%:*}"
	done
	# shellcheck disable=SC2016 # expanded by the inner shell
	in_root bash -euc 'cd "$1/root"; find . | cpio --quiet -o -H newc -R 0:0 >"$1/system.cpio"' pack "$1"
	"${ns[@]}" rm -rf "$1/root"
}

if ! is_made "$folder"; then
	"$SCRIPTS/build/host.sh"
	hold_lock "$system"
	make_once "$folder" run_step "Getting Debian $DEBIAN_SUITE for a guest ($system)" "1 to 2 minutes" make_folder
fi
printf '%s\n' "$folder/system.cpio"
