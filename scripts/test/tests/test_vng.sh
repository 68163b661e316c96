#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# How vng.sh calls virtme-ng, and what it makes of what that says. A program that does the
# same for its arguments as vng stands in for it.
set -euo pipefail

top=$(cd "$(dirname "$0")/../../.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
failures=0
mkdir -p "$tmp/bin" "$tmp/kernel" "$tmp/checkout"
cp -r "$top/scripts" "$tmp/checkout"
cat >"$tmp/bin/vng" <<'VNG'
#!/bin/bash
printf '%s\n' "$@" >"$ARGUMENTS"
# The last argument is a program in the guest, and the file that tells it what to do.
eval "words=(${!#})"
cat "${words[1]}" >>"$ARGUMENTS"
printf "$SAYS" >&2
exit "$STATUS"
VNG
chmod +x "$tmp/bin/vng"

# run STATUS SAYS SETTING... : vng says this in its log and exits so.
run() {
	env -u MAKEFLAGS -u KERNEL -u SERIES PATH="$tmp/bin:$PATH" DMIRROR_CACHE="$tmp/cache" ARGUMENTS="$tmp/arguments" BUILT=1 \
		STATUS="$1" SAYS="$2" KDIR="$tmp/kernel" "${@:3}" "$tmp/checkout/scripts/guest/vng.sh" >"$tmp/out" 2>&1
}

# exits WANTED STATUS SAYS SETTING...
exits() {
	local status=0
	run "${@:2}" || status=$?
	[ "$status" -eq "$1" ] && return
	printf 'status %d, not %d: %s\n' "$status" "$1" "${*:2}"
	cat "$tmp/out"
	failures=$((failures + 1))
}

# passes WORDS : the last call of vng had this line among its arguments.
passes() {
	grep -qxF -e "$1" "$tmp/arguments" && return
	printf 'no argument is: %s\n' "$1"
	cat "$tmp/arguments"
	failures=$((failures + 1))
}

whole='[ 1.0] dmirror-guest: command starts\n[ 2.0] dmirror-guest: end\n'
exits 0 0 "$whole" CMD=true
exits 7 7 "$whole" CMD=true
exits 120 0 "${whole}[ 3.0] WARNING: mm/hmm.c:1 at f\n" CMD=true
exits 120 0 "${whole}[ 3.0] dmirror-guest: complaint: dmirror does not unload\n" CMD=true
exits 121 255 '[ 1.0] dmirror-guest: command starts\n' CMD=true
exits 122 255 'vng: no kernel\n' CMD=true
exits 125 0 "$whole" CMD=
exits 125 0 "$whole" CMD=true MODULE=test_hmm

exits 0 0 "$whole" CMD="echo 'a b'; ls \$HOME" ARGS='capacity=1 engines=0' APPEND='memmap=512M$0x160000000' MEM=8G CPUS=3 ACCEL=tcg VNG='--force-9p --rw'
passes "$tmp/checkout/scripts/guest/inside/vng $tmp/checkout/build/log/guest-kdir.log.settings "
inside="$tmp/checkout/build/kdir $tmp/checkout/build/cargo-release/$(uname -m)-unknown-linux-gnu/release"
passes "$tmp/kernel/$(. "$top/scripts/lib/lib.sh" && echo "$BOOT_IMAGE")"
passes 8G
passes 3
passes --disable-kvm
passes --force-9p
passes --rw
passes 'ignore_loglevel printk.devkmsg=on oops=panic panic=-1 memmap=512M$0x160000000'
passes "$inside '' $(printf '%q' "echo 'a b'; ls \$HOME") dmirror capacity=1 engines=0 "
exits 0 0 "$whole" CMD=true MODULE=none FILES="$tmp/bin/vng $tmp/arguments"
passes "$inside $(printf '%q' "$tmp/bin/vng $tmp/arguments") true "
exits 125 0 "$whole" CMD=true FILES="$tmp/none"
[ "$failures" -eq 0 ]
