#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Do what a new user does on other hosts: a Debian system in a folder for each, with git and
# make and nothing else of ours; in it `make run`, in a new clone, with an empty cache; as
# root, and as an ordinary user after root has installed what the first try names.
#
#   scripts/test/hosts.sh [SUITE[:USER]...]
#
# SUITE is one of Debian, USER is root or user; default: bookworm:root trixie:root trixie:user
# testing:root. SETTINGS are settings for make, such as SERIES=7.2.
. "$(dirname "$0")/../lib/lib.sh"
. "$SCRIPTS/lib/cases.sh"

[ -z "$CROSS" ] || die "ARCH=$ARCH is not this machine's" "SETTINGS='ARCH=$ARCH' gives it to make on each host."
if [ "$(id -u)" -ne 0 ]; then
	skipped "make run on other hosts: needs root, which makes ordinary users"
	totals
	exit
fi
hosts=("${@:-}")
[ -n "${hosts[0]}" ] || hosts=(bookworm:root trixie:root trixie:user testing:root)
SETTINGS=${SETTINGS:-}
mkdir -p "$BUILD/log" "$BUILD/tmp"
"$SCRIPTS/build/host.sh"
tmp=$(mktemp -d "$BUILD/tmp/hosts.XXXXXX")
trap 'rm -rf -- "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

# within USER COMMAND : have bash run it on the host in $tmp/host. Not by chroot: the kernel gives
# nobody in a chroot a user namespace.
within() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount bash -euc '
		mount --rbind "$1" "$1"
		for name in dev proc sys; do mount --rbind "/$name" "$1/$name"; done
		[ ! -s /etc/resolv.conf ] || mount --bind "$(readlink -f /etc/resolv.conf)" "$1/etc/resolv.conf"
		ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
		[ ! -s "$ca" ] || mount --bind "$ca" "$1/etc/ssl/certs/ca-certificates.crt"
		cd "$1"
		pivot_root . mnt
		umount --lazy mnt
		proxies=()
		for name in http_proxy https_proxy no_proxy; do [ -z "${!name:-}" ] || proxies+=("$name=${!name}"); done
		exec env -i TERM=dumb "${proxies[@]}" su -s /bin/bash - "$2" -w http_proxy,https_proxy,no_proxy -c "$3"
	' within "$tmp/host" "$1" "$2" </dev/null
}

# make_host SUITE : as it comes, with git and make; not even what the README names besides.
make_host() {
	rm -rf -- "$tmp/host"
	mkdir "$tmp/host"
	# An old copy of the archive will do.
	mmdebstrap --variant=minbase --include=git,make,ca-certificates,passwd,util-linux \
		--aptopt='Acquire::Check-Valid-Until "false"' --format=tar "$1" - |
		tar -x --exclude='./dev/*' -C "$tmp/host" || return
	mkdir -p "$tmp/host"/{dev,proc,sys,mnt}
	: >"$tmp/host/etc/resolv.conf"
	within root 'useradd --create-home --shell /bin/bash user'
	git clone -q --no-local "$TOP" "$tmp/host/root/dmirror"
	cp -a "$tmp/host/root/dmirror" "$tmp/host/home/user/dmirror"
	within root 'chown -R user: /home/user/dmirror'
}

# try HOST : `make run` there; its output is in a log.
try() {
	local suite=${1%%:*} user=${1##*:} log=$BUILD/log/hosts-${1/:/-}.log missing seconds
	make_host "$suite" >"$log" 2>&1 || { tail -n 20 "$log" && failed "$1: the host" && return; }
	if [ "$user" = user ]; then
		missing=$(within user 'cd dmirror && make run' 2>&1 | tee -a "$log" | sed -n 's/^ *Install them with: sudo //p') || true
		check "$1: what is missing is named" test -n "$missing"
		within root "apt-get update && DEBIAN_FRONTEND=noninteractive $missing -y --no-install-recommends" >>"$log" 2>&1 || true
	fi
	seconds=$SECONDS
	within "$user" "cd dmirror && make run $SETTINGS" >>"$log" 2>&1 || { tail -n 20 "$log" && failed "$1: make run $SETTINGS" && return; }
	passed "$1: make run $SETTINGS ($((SECONDS - seconds)) s, with an empty cache)"
	check "$1: make run again" within "$user" "cd dmirror && make run $SETTINGS"
}

for host in "${hosts[@]}"; do
	[[ $host == *:* ]] || host+=:root
	[[ ${host##*:} =~ ^(root|user)$ ]] || die "there is no user '${host##*:}'" "USER is root or user."
	note "$host"
	try "$host"
done
totals
