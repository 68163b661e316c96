#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts decide by the host: how its packages are installed, and what emulates or
# runs its guests.
. "$(dirname "$0")/../../lib/lib.sh"
. "$SCRIPTS/lib/host.sh"

accel='' cpu='' clock=''
tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
failures=0

# is SAID EXPECTED WHAT
is() {
	[ "$1" != "$2" ] || return 0
	printf "%s: '%s', not '%s'\n" "$3" "$1" "$2"
	failures=$((failures + 1))
}

# -- Packages ----------------------------------------------------------------------

while IFS='|' read -r os_release expected advice; do
	printf '%b' "$os_release" >"$tmp/os-release"
	said=$(distribution "$tmp/os-release")
	is "$said" "$expected" "$os_release"
	is "$(install_advice "$said" mmdebstrap python3 uidmap debian-archive-keyring)" "$advice" "$os_release"
done <<'TABLE'
ID=debian\nVERSION_ID="12"\n|debian|Install them with: sudo apt-get install mmdebstrap python3 uidmap debian-archive-keyring
NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n|debian|Install them with: sudo apt-get install mmdebstrap python3 uidmap debian-archive-keyring
ID=linuxmint\nID_LIKE="ubuntu debian"\n|debian|Install them with: sudo apt-get install mmdebstrap python3 uidmap debian-archive-keyring
ID=fedora\nVERSION_ID=43\n|fedora|Install them with: sudo dnf install mmdebstrap python3 shadow-utils debian-keyring
ID="rocky"\nID_LIKE="rhel centos fedora"\n|fedora|Install them with: sudo dnf install mmdebstrap python3 shadow-utils debian-keyring
ID=arch\n|arch|Install them with pacman, and mmdebstrap from the AUR: mmdebstrap python shadow debian-archive-keyring
ID=nixos\n|other|Install them; these are the names of Debian's packages.
|other|Install them; these are the names of Debian's packages.
TABLE
is "$(distribution "$tmp/none")" other "a host without os-release"

# -- KVM ---------------------------------------------------------------------------

echo 'flags		: fpu vme de vmx sse' >"$tmp/intel"
echo 'flags		: fpu vme de sse svm' >"$tmp/amd"
echo 'flags		: fpu vme de sse svmx' >"$tmp/neither"
: >"$tmp/kvm"

# Host, guest, device file, processor, ACCEL, CLOCK: what QEMU is told.
while read -r host ARCH device cpuinfo wanted clock_is expected; do
	[ "$wanted" != - ] || wanted=
	CROSS=
	[ "$host" = "$ARCH" ] || CROSS=other-
	choose_accel "$wanted" "$clock_is" "$tmp/$device" "$tmp/$cpuinfo"
	is "$accel $cpu${clock:+ $clock}" "$expected" "$ARCH on $host, $device, $cpuinfo, ACCEL=$wanted, CLOCK=$clock_is"
done <<'TABLE'
x86_64 x86_64 kvm intel - host kvm host
x86_64 x86_64 kvm amd - host kvm host
x86_64 x86_64 kvm neither - host tcg,thread=multi max,-erms,-fsrm
x86_64 x86_64 none intel - host tcg,thread=multi max,-erms,-fsrm
x86_64 x86_64 kvm intel tcg host tcg max,-erms,-fsrm
x86_64 x86_64 none neither kvm host kvm host
x86_64 x86_64 kvm intel - instructions kvm host
x86_64 x86_64 none intel - instructions tcg,thread=single max,-erms,-fsrm,vendor=GenuineIntel,family=6,model=94 -icount shift=0,sleep=off
x86_64 arm64 kvm intel - host tcg,thread=multi neoverse-n1
arm64 arm64 kvm neither - host kvm host
arm64 arm64 none neither - host tcg,thread=multi neoverse-n1
arm64 x86_64 kvm intel - host tcg,thread=multi max,-erms,-fsrm
TABLE
[ "$failures" -eq 0 ]
