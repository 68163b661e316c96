#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run a command in the build root, in a mount namespace of its own: the
# checkout and the cache are at their usual paths, and so are KDIR and its source;
# the host's resolver and CA bundle are used, and nothing stays mounted afterwards.
#
#   scripts/build/in-root.sh COMMAND [ARGUMENT...]
#
# DMIRROR_ROOT names another root than the one of root.sh.
. "$(dirname "$0")/../lib/lib.sh"

[ $# -gt 0 ] || die "no command given" "Usage: scripts/build/in-root.sh COMMAND [ARGUMENT...]"
root=${DMIRROR_ROOT:-} kernel_env=()
if [ -n "$root" ]; then
	:
elif [ -z "$CROSS" ]; then
	root=$("$SCRIPTS/build/root.sh")
else
	root=$("$SCRIPTS/build/cross-root.sh")
	# What the kernel's makefiles go by.
	kernel_env=(ARCH="$ARCH" CROSS_COMPILE="$CROSS")
fi
# Debian's kernel has a vDSO for programs of 32 bits.
[ "$ARCH" != arm64 ] || kernel_env+=(CROSS_COMPILE_COMPAT=arm-linux-gnueabihf-)

ns=(unshare --mount)
[ "$(id -u)" -eq 0 ] || ns+=(--user --map-root-user)

# A folder of its own may hold another one.
folders=("$TOP" "$CACHE")
if [ -n "${KDIR:-}" ]; then
	. "$SCRIPTS/lib/kdir.sh"
	# By the name that it was built with, and by its own.
	link=$(readlink "$KDIR/source" || true)
	[[ $link != /* ]] || folders+=("$link")
	folders+=("$(kdir_source)" "$KDIR")
fi

keep=()
for name in http_proxy https_proxy no_proxy TERM JOBS CI; do
	[ -z "${!name:-}" ] || keep+=("$name=${!name}")
done

# shellcheck disable=SC2016 # expanded by the inner shell
exec "${ns[@]}" bash -euc '
	root=$1 cwd=$2 folders=$3
	shift 3
	mount --rbind /dev "$root/dev"
	mount --rbind /proc "$root/proc"
	mount --rbind /sys "$root/sys"
	for dir in "${@:1:folders}"; do
		mkdir -p "$root$dir"
		mount --rbind "$dir" "$root$dir"
	done
	ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
	[ ! -s "$ca" ] || [ ! -e "$root/etc/ssl/certs/ca-certificates.crt" ] ||
		mount --bind "$ca" "$root/etc/ssl/certs/ca-certificates.crt"
	[ ! -s /etc/resolv.conf ] || mount --bind "$(readlink -f /etc/resolv.conf)" "$root/etc/resolv.conf"
	shift "$folders"
	cd "$root$cwd" 2>/dev/null || cwd=/
	exec chroot "$root" /usr/bin/env -i --chdir="$cwd" "$@"
' in-root "$root" "$PWD" "${#folders[@]}" "${folders[@]}" \
	APT_CONFIG="$SCRIPTS/build/apt.conf" \
	PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 LC_ALL=C.UTF-8 \
	CARGO_HOME="$CACHE/cargo" CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt \
	"${kernel_env[@]}" "${keep[@]}" "$@"
